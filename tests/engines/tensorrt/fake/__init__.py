"""One GPU that is not there: the CUDA runtime and the TensorRT runtime over numpy or ONNX Runtime.

Both follow the real interfaces name by name: a fake TensorRT of one version has the names that
api.json lists for that version and no others. Work is queued on streams and happens when a stream
is waited for, in any order that streams and events leave open, so a forgotten wait gives poisoned
results. MisuseError tells of what real CUDA or TensorRT punishes with undefined behaviour.
"""

from .cuda import CaptureMode, CopyKind, DeviceAttribute, FakeCuda, MisuseError, Status
from .model import FakeModel, onnx_plan
from .tensorrt import (
    API,
    PLAN,
    Context,
    Engine,
    EngineValidity,
    FakeTensorRt,
    ILogger,
    Runtime,
    Severity,
)

__all__ = [
    "API",
    "PLAN",
    "CaptureMode",
    "Context",
    "CopyKind",
    "DeviceAttribute",
    "Engine",
    "EngineValidity",
    "FakeCuda",
    "FakeModel",
    "FakeTensorRt",
    "ILogger",
    "MisuseError",
    "Runtime",
    "Severity",
    "Status",
    "onnx_plan",
]
