"""One GPU that is not there: the CUDA runtime and the TensorRT runtime over numpy.

Both follow the real interfaces name by name (test_api.py holds them to it). Work is queued on
streams and happens when a stream is synchronised, so a forgotten synchronisation gives poisoned
results. MisuseError tells of addresses that are unknown or freed, copies out of bounds or from
pageable memory, the default stream, another thread's device, execution with unbound tensors.
"""

# ruff: noqa: N802, N803, N815, ARG002
from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

PLAN = b"a fake plan"

_TYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32"}


class MisuseError(AssertionError):
    """The caller broke a rule that real CUDA or TensorRT punishes with undefined behaviour."""


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700


class CopyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class DeviceAttribute(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


@dataclass
class Stream:
    device: int
    work: list[Callable[[], None]] = field(default_factory=list)


class FakeCuda:
    """Stands in for the module ``cuda.bindings.runtime``."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = CopyKind
    cudaDeviceAttr = DeviceAttribute

    def __init__(self, devices: int = 2, capability: tuple[int, int] = (8, 9)) -> None:
        self.devices = devices
        self.capability = capability
        self.driver = 13000
        self.streams: dict[int, Stream] = {}
        self.memory: dict[int, bytearray] = {}
        self.pinned: dict[int, Any] = {}
        self.allocations = 0
        self._faults: dict[str, list[Status]] = {}
        self._current = threading.local()
        self._next = 0x7F0000000000

    def fail(self, call: str, *statuses: Status) -> None:
        """Let the next calls of a function end with these statuses."""
        self._faults[call] = list(statuses)

    def leaks(self) -> tuple[int, int, int]:
        """Device allocations, pinned allocations and streams that are still alive."""
        return len(self.memory), len(self.pinned), len(self.streams)

    def cudaGetErrorString(self, error: Status) -> tuple[Status, bytes]:
        return Status.cudaSuccess, f"text of {error.name}".encode()

    def cudaDriverGetVersion(self) -> tuple[Status, int]:
        return Status.cudaSuccess, self.driver

    def cudaGetDeviceCount(self) -> tuple[Status, int | None]:
        if status := self._fault("cudaGetDeviceCount"):
            return status, None
        return Status.cudaSuccess, self.devices

    def cudaGetDevice(self) -> tuple[Status, int]:
        return Status.cudaSuccess, getattr(self._current, "device", 0)

    def cudaSetDevice(self, device: int) -> tuple[Status]:
        self._current.device = device
        return (Status.cudaSuccess,)

    def cudaDeviceGetAttribute(self, attr: DeviceAttribute, device: int) -> tuple[Status, int]:
        return Status.cudaSuccess, self.capability[int(attr) - 75]

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int | None]:
        if flags != self.cudaStreamNonBlocking:
            raise MisuseError("a blocking stream waits for the default stream")
        if status := self._fault("cudaStreamCreateWithFlags"):
            return status, None
        self._next += 256
        self.streams[self._next] = Stream(self.cudaGetDevice()[1])
        return Status.cudaSuccess, self._next

    def cudaStreamDestroy(self, stream: int) -> tuple[Status]:
        self._drain(self.stream(stream))
        del self.streams[stream]
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:
        self._drain(self.stream(stream))
        return (self._fault("cudaStreamSynchronize") or Status.cudaSuccess,)

    def cudaMallocAsync(self, size: int, hStream: int) -> tuple[Status, int | None]:
        self.stream(hStream)
        if status := self._fault("cudaMallocAsync"):
            return status, None
        self._next += size + 4096
        self.memory[self._next] = bytearray(b"\xab" * size)
        self.allocations += 1
        return Status.cudaSuccess, self._next

    def cudaFreeAsync(self, devPtr: int, hStream: int) -> tuple[Status]:
        if status := self._fault("cudaFreeAsync"):
            return (status,)
        self.device_bytes(devPtr, 0)
        self.stream(hStream).work.append(lambda: self._free(devPtr))
        return (Status.cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Status, int | None]:
        if flags != self.cudaHostAllocDefault:
            raise MisuseError(f"flags {flags}")
        if status := self._fault("cudaHostAlloc"):
            return status, None
        block = (ctypes.c_uint8 * size)(*(b"\xcd" * size))
        self.pinned[ctypes.addressof(block)] = block
        return Status.cudaSuccess, ctypes.addressof(block)

    def cudaFreeHost(self, ptr: int) -> tuple[Status]:
        if ptr not in self.pinned:
            raise MisuseError(f"cudaFreeHost of {ptr:#x}, which is not page-locked memory")
        # Scribble first, so that a result that still points into the block shows.
        block = self.pinned.pop(ptr)
        ctypes.memset(ptr, 0xEE, len(block))
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: CopyKind, stream: int
    ) -> tuple[Status]:
        if status := self._fault("cudaMemcpyAsync"):
            return (status,)
        to_device = kind is CopyKind.cudaMemcpyHostToDevice
        host, device = (src, dst) if to_device else (dst, src)
        self.device_bytes(device, count)
        queued = bytes(self._pinned_bytes(host, count)[:count])

        def copy() -> None:
            block = self._pinned_bytes(host, count)
            memory = self.device_bytes(device, count)
            if to_device:
                if bytes(block[:count]) != queued:
                    raise MisuseError("page-locked memory changed under a queued copy")
                memory[:count] = queued
            else:
                ctypes.memmove(host, bytes(memory[:count]), count)

        self.stream(stream).work.append(copy)
        return (Status.cudaSuccess,)

    def stream(self, handle: int) -> Stream:
        if handle not in self.streams:
            raise MisuseError(f"stream {handle} is the default stream or does not exist")
        if self.streams[handle].device != self.cudaGetDevice()[1]:
            raise MisuseError("this thread's current device is not the stream's")
        return self.streams[handle]

    def device_bytes(self, address: int, size: int) -> bytearray:
        if address not in self.memory:
            raise MisuseError(f"{address:#x} is not device memory, or was freed")
        if size > len(self.memory[address]):
            raise MisuseError(f"{size} bytes at a buffer of {len(self.memory[address])}")
        return self.memory[address]

    def _pinned_bytes(self, address: int, size: int) -> Any:
        if address not in self.pinned or size > len(self.pinned[address]):
            raise MisuseError(f"{size} bytes at {address:#x} are not page-locked memory")
        return self.pinned[address]

    def _free(self, address: int) -> None:
        del self.memory[address]

    def _drain(self, stream: Stream) -> None:
        work, stream.work = stream.work, []
        for step in work:
            step()

    def _fault(self, call: str) -> Status | None:
        queue = self._faults.get(call)
        return (queue.pop(0) or None) if queue else None


@dataclass
class FakeModel:
    """What the plan computes: named axes, dtypes and a numpy function."""

    inputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    outputs: Mapping[str, tuple[str, tuple[int | str, ...]]]
    function: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


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
    INT32 = 3
    INT64 = 8


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class EngineValidity(enum.Enum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(enum.IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    MALFORMED_ENGINE = 32


class FakeTensorRt(SimpleNamespace):
    """Stands in for the module ``tensorrt`` or ``tensorrt_rtx``.

    Attributes:
        faults: any of ``deserialize``, ``context``, ``shape``, ``infer``, ``infer-raises``,
            ``address``, ``execute``: the steps that fail, with a line in the log.
        validity: what the RTX runtime says about a plan, and the reasons as bits.
    """

    def __init__(self, flavour: str, cuda: FakeCuda, model: FakeModel) -> None:
        super().__init__(
            ILogger=ILogger,
            DataType=DataType,
            TensorIOMode=TensorIOMode,
            __version__="1.7.1.116" if flavour == "tensorrt_rtx" else "10.16.1.11",
        )
        self.faults: set[str] = set()
        self.validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)
        self.contexts: list[Context] = []
        base = RtxRuntime if flavour == "tensorrt_rtx" else Runtime
        self.Runtime = type("Runtime", (base,), {"trt": self, "cuda": cuda, "model": model})
        if flavour == "tensorrt_rtx":
            self.EngineValidity = EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics


class Runtime:
    trt: FakeTensorRt
    cuda: FakeCuda
    model: FakeModel

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def fails(self, step: str) -> bool:
        if step in self.trt.faults:
            self.logger.log(Severity.ERROR, f"the reason for {step}")
            return True
        return False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        failed = self.fails("deserialize") or serialized_engine != PLAN
        return None if failed else Engine(self)


class RtxRuntime(Runtime):
    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        return self.trt.validity


class Engine:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tensors = {**runtime.model.inputs, **runtime.model.outputs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._runtime.model.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[_TYPES[self._tensors[name][0]]]

    def create_execution_context(self) -> Context | None:
        if self._runtime.fails("context"):
            return None
        context = Context(self._runtime)
        self._runtime.trt.contexts.append(context)
        return context


class Context:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._model = runtime.model
        self._cuda = runtime.cuda
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.executions = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name not in self._model.inputs:
            raise MisuseError(f"{name!r} is not an input")
        self._shapes[name] = tuple(shape)
        return not self._runtime.fails("shape")

    def infer_shapes(self) -> list[str]:
        if self._runtime.fails("infer-raises"):
            raise RuntimeError("shape inference failed")
        if self._runtime.fails("infer"):
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
        if name not in self._model.inputs and name not in self._model.outputs:
            raise MisuseError(f"unknown tensor {name!r}")
        self._addresses[name] = memory
        return not self._runtime.fails("address")

    def execute_async_v3(self, stream_handle: int) -> bool:
        queue = self._cuda.stream(stream_handle).work
        tensors = {**self._model.inputs, **self._model.outputs}
        if set(self._addresses) != set(tensors):
            raise MisuseError(f"tensors without an address: {set(tensors) - set(self._addresses)}")
        for name, (dtype, _) in tensors.items():
            size = int(np.prod(self.get_tensor_shape(name))) * np.dtype(dtype).itemsize
            self._cuda.device_bytes(self._addresses[name], size)
        if self._runtime.fails("execute"):
            return False
        queue.append(self._compute)
        return True

    def _compute(self) -> None:
        feeds = {}
        for name, (dtype, _) in self._model.inputs.items():
            shape = self._shapes[name]
            memory = self._cuda.device_bytes(self._addresses[name], 0)
            count = int(np.prod(shape))
            feeds[name] = np.frombuffer(memory, dtype, count).reshape(shape).copy()
        for name, array in self._model.function(feeds).items():
            dtype, _ = self._model.outputs[name]
            content = np.ascontiguousarray(array.astype(dtype)).tobytes()
            self._cuda.device_bytes(self._addresses[name], len(content))[: len(content)] = content
        self.executions += 1
