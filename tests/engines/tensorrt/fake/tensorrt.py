"""Stands in for the module ``tensorrt`` or ``tensorrt_rtx``, with one version's names only."""

# ruff: noqa: ARG002
from __future__ import annotations

import enum
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import builder, refitter
from .cuda import FakeCuda
from .model import PLAN, FakeModel, model_of
from .onnx_model import OnnxModel
from .runtime_cache import RuntimeConfig
from .streams import MisuseError

API: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parents[1] / "api.json").read_text(encoding="utf-8")
)
"""Version -> class ("" is the module) -> the names of it that fuselage uses."""

VERSIONS = {version.split("-")[0]: version for version in sorted(API, reverse=True)}
"""Package -> the version that stands for it."""

_TYPES = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL",
    "int64": "INT64", "bfloat16": "BF16", "float8_e4m3fn": "FP8", "int4": "INT4",
    "float4_e2m1fn": "FP4",
}  # fmt: skip


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    MALFORMED_ENGINE = 32


_MODULE = {
    "ILogger": ILogger,
    "DataType": DataType,
    "TensorIOMode": TensorIOMode,
    "TensorLocation": TensorLocation,
    "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
    "EngineValidity": EngineValidity,
    "EngineInvalidityDiagnostics": EngineInvalidityDiagnostics,
    "BuilderFlag": builder.BuilderFlag,
    "ComputeCapability": builder.ComputeCapability,
    "LayerType": builder.LayerType,
    "MemoryPoolType": builder.MemoryPoolType,
    "NetworkDefinitionCreationFlag": builder.NetworkDefinitionCreationFlag,
    "ProfilingVerbosity": builder.ProfilingVerbosity,
    "SerializationFlag": builder.SerializationFlag,
}


class FakeTensorRt(SimpleNamespace):
    """A TensorRT whose plans compute a model.

    Args:
        version: a key of `API`, or the name of a package.
        cuda: the GPU.
        model: what the plan `PLAN` computes; None for plans that hold their own.
        profiles: of every plan: dynamic axis -> (min, opt, max); axes left out take any size.

    Attributes:
        faults: any of ``deserialize``, ``context``, ``profile``, ``shape``, ``infer``,
            ``infer-raises``, ``address``, ``execute``, ``capture``, ``runtime-cache``,
            ``serialize``, ``refit``, ``refit-model``, ``write``, ``build``, ``timing-cache``: the
            steps that fail, with a line in the log.
        validity: what the RTX runtime says about a plan, and the reasons as bits.
        capturable: what an RTX context says about a stream.
        contexts: every context ever created.
        on_host: tensors that live in the memory of the CPU.
        compiled: kernels compiled at run time, not found in a cache.
        timed: kernels timed in a build, not found in a cache.
        least_budget: below which weights cannot stream.
    """

    def __init__(
        self,
        version: str,
        cuda: FakeCuda,
        model: FakeModel | None = None,
        profiles: tuple[Mapping[str, Any], ...] = ({},),
    ) -> None:
        version = VERSIONS.get(version, version)
        names = API[version]
        module = {name: value for name, value in _MODULE.items() if name in names[""]}
        super().__init__(**module, __version__=version.split("-")[1])
        self.names = names
        self.cuda = cuda
        self.model = model
        self.profiles = profiles
        self.faults: set[str] = set()
        self.validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)
        self.capturable = True
        self.contexts: list[Any] = []
        self.on_host: set[str] = set()
        self.compiled = 0
        self.timed = 0
        self.least_budget = 0
        self.Runtime = self.restrict(Runtime, "Runtime")
        self.Refitter = self.restrict(refitter.Refitter, "Refitter")
        self.OnnxParserRefitter = self.restrict(refitter.OnnxParserRefitter, "OnnxParserRefitter")
        self.Builder = self.restrict(builder.Builder, "Builder")
        self.OnnxParser = self.restrict(builder.OnnxParser, "OnnxParser")

    def restrict(self, fake: type, real: str) -> Any:
        """The fake class without the names that this version's class lacks."""
        known = {name for api in API.values() for name in api.get(real, [])}
        public = {name for name in vars(fake) if not name.startswith("_")}
        if unknown := public - known:
            raise MisuseError(f"no version of TensorRT has {real}.{sorted(unknown)}")
        body = {
            name: value
            for name, value in vars(fake).items()
            if name.startswith("_") and name not in ("__dict__", "__weakref__")
        }
        body |= {name: vars(fake)[name] for name in public & set(self.names.get(real, []))}
        return type(real, (), {**body, "_trt": self})


class Runtime:
    _trt: FakeTensorRt

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        model = model_of(bytes(serialized_engine), self._trt.model)
        if self._fails("deserialize") or model is None:
            return None
        return self._trt.restrict(Engine, "ICudaEngine")(self, model)

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        return self._trt.validity

    def _fails(self, step: str) -> bool:
        if step in self._trt.faults:
            self._logger.log(Severity.ERROR, f"the reason for {step}")
            return True
        return False


class Engine:
    _trt: FakeTensorRt

    def __init__(self, runtime: Any, model: FakeModel) -> None:
        self._runtime = runtime
        self._model = model
        self._tensors = {**model.inputs, **model.outputs}
        self._budget = 0

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def refittable(self) -> bool:
        mode = getattr(self._model, "mode", None)
        return bool(self._model.weights) if mode is None else mode["refit"] is not None

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._trt.profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._model.inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        on_host = name in self._trt.on_host
        return TensorLocation.HOST if on_host else TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[_TYPES[self._tensors[name][0]]]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return 1024 * (profile + 1)

    @property
    def streamable_weights_size(self) -> int:
        return sum(array.nbytes for array in self._model.weights.values())

    def get_weight_streaming_automatic_budget(self) -> int:
        return self.streamable_weights_size // 2

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        if not isinstance(self._model, OnnxModel) or not self._model.mode["streamed"]:
            raise MisuseError("the plan was not built for weight streaming")
        if any(context._engine is self for context in self._trt.contexts):
            raise MisuseError("the budget cannot change while there are contexts")
        if budget < self._trt.least_budget:
            self._runtime._logger.log(Severity.ERROR, f"needs {self._trt.least_budget} at least")
            raise RuntimeError("Failed to set weight streaming budget!")
        self._budget = budget

    def create_serialization_config(self) -> Any:
        return self._trt.restrict(refitter.SerializationConfig, "ISerializationConfig")()

    def serialize_with_config(self, config: Any) -> Any:
        if self._runtime._fails("write") or not isinstance(self._model, OnnxModel):
            return None
        if builder.SerializationFlag.INCLUDE_REFIT not in config._flags:
            raise MisuseError("a plan that cannot be refitted again")
        return memoryview(self._model.write(stripped=False))

    def create_runtime_config(self) -> Any:
        return self._trt.restrict(RuntimeConfig, "IRuntimeConfig")()

    def create_execution_context(self, how: Any) -> Any:
        strategy = getattr(how, "_strategy", how)
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise MisuseError("memory that TensorRT allocates itself is not bounded by us")
        if self._runtime._fails("context"):
            return None
        if not getattr(self._model, "filled", True):
            self._runtime._logger.log(Severity.ERROR, "the stripped plan was not refitted")
            return None
        cache = getattr(how, "_runtime_cache", None)
        context = self._trt.restrict(Context, "IExecutionContext")(self, cache)
        self._trt.contexts.append(context)
        return context


class Context:
    _trt: FakeTensorRt

    def __init__(self, engine: Any, runtime_cache: Any = None) -> None:
        self._engine = engine
        self._runtime_cache = runtime_cache
        self._model: FakeModel = engine._model
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._workspace = (0, 0)
        self._profile: int | None = None
        self._changed = True
        self._entered = threading.Lock()
        self._executions = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        with self._alone():
            if not 0 <= profile_index < len(self._trt.profiles):
                raise MisuseError(f"profile {profile_index}")
            self._trt.cuda.stream(stream_handle).push(lambda: None)
            self._profile = profile_index
            return not self._fails("profile")

    def set_device_memory(self, memory: int, size: int) -> None:
        if self._profile is None:
            raise MisuseError("how much memory is needed depends on the profile")
        needed = self._engine.get_device_memory_size_for_profile_v2(self._profile)
        if size < needed or memory % 256:
            raise MisuseError(f"{size} bytes at {memory:#x}, needed {needed}, aligned to 256")
        self._workspace = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        with self._alone():
            if name not in self._model.inputs:
                raise MisuseError(f"{name!r} is not an input")
            if self._profile is None:
                raise MisuseError("a shape is set before a profile was chosen")
            self._changed |= self._shapes.get(name) != tuple(shape)
            self._shapes[name] = tuple(shape)
            return not self._fails("shape") and self._in_profile(name, shape)

    def infer_shapes(self) -> list[str]:
        with self._alone():
            if self._fails("infer-raises"):
                raise RuntimeError("shape inference failed")
            if self._fails("infer"):
                return ["mask"]
            return [name for name in self._model.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        sizes = {
            dim: size
            for other, shape in self._shapes.items()
            for dim, size in zip(self._model.inputs[other][1], shape, strict=True)
        }
        dims = self._model.outputs[name][1]
        return tuple(sizes.get(dim, -1) if isinstance(dim, str) else dim for dim in dims)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._alone():
            if name not in self._model.inputs and name not in self._model.outputs:
                raise MisuseError(f"unknown tensor {name!r}")
            if memory % 256:
                raise MisuseError(f"{name!r} at {memory:#x}, which is not aligned to 256 bytes")
            self._addresses[name] = memory
            return not self._fails("address")

    def is_stream_capturable(self, stream: int) -> bool:
        return self._trt.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        with self._alone(), self._trt.cuda.gpu:
            cuda = self._trt.cuda
            stream = cuda.stream(stream_handle)
            cuda.calls["execute_async_v3"] += 1
            self._check(stream)
            if self._fails("execute"):
                return False
            if stream.capture is not None and self._fails("capture"):
                stream.broken = True
                return False
            if stream.capture is not None and self._changed:
                raise MisuseError("the first run after a change of shape cannot be recorded")
            self._changed = False
            shapes = {name: self.get_tensor_shape(name) for name in self._tensors()}
            if self._runtime_cache is not None:
                self._runtime_cache._compile(f"{self._profile} {sorted(shapes.items())}")
            addresses = dict(self._addresses)
            stream.push(lambda: self._compute(shapes, addresses))
            return True

    def _check(self, stream: Any) -> None:
        if self._profile is None:
            raise MisuseError("no profile was chosen")
        cuda, tensors = self._trt.cuda, self._tensors()
        if set(self._addresses) != set(tensors):
            raise MisuseError(f"tensors without an address: {set(tensors) - set(self._addresses)}")
        for name, (dtype, _) in tensors.items():
            size = int(np.prod(self.get_tensor_shape(name))) * np.dtype(dtype).itemsize
            cuda.span(self._addresses[name], size, queued=True)
        block = cuda.memory[self._workspace[0]]
        if block.scratch_of not in (None, stream):
            raise MisuseError("two streams share scratch memory")
        block.scratch_of = stream

    def _compute(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        cuda = self._trt.cuda
        cuda.span(*self._workspace)[:8] = b"scribble"
        feeds = {}
        for name, (dtype, _) in self._model.inputs.items():
            size = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
            memory = bytes(cuda.span(addresses[name], size))
            feeds[name] = np.frombuffer(memory, dtype).reshape(shapes[name])
        for name, array in self._model.function(feeds).items():
            dtype, _ = self._model.outputs[name]
            content = np.ascontiguousarray(array.astype(dtype)).tobytes()
            cuda.span(addresses[name], len(content))[:] = content
        self._executions += 1

    def _tensors(self) -> dict[str, Any]:
        return {**self._model.inputs, **self._model.outputs}

    def _in_profile(self, name: str, shape: tuple[int, ...]) -> bool:
        axes = self._trt.profiles[self._profile or 0]
        for dim, size in zip(self._model.inputs[name][1], shape, strict=True):
            low, _, high = axes.get(dim, (1, 1, size))
            if not low <= size <= high:
                self._log(f"{name}: {size} is outside the profile {self._profile}")
                return False
        return True

    def _fails(self, step: str) -> bool:
        return bool(self._engine._runtime._fails(step))

    def _log(self, text: str) -> None:
        self._engine._runtime._logger.log(Severity.ERROR, text)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._entered.acquire(blocking=False):
            raise MisuseError("two threads use one execution context")
        began = time.perf_counter_ns()
        try:
            yield
        finally:
            self._trt.cuda.inside_ns += time.perf_counter_ns() - began
            self._entered.release()


__all__ = ["API", "PLAN", "Context", "Engine", "FakeTensorRt", "Runtime"]
