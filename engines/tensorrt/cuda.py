"""The CUDA calls an engine needs, each checked: a small facade over ``cuda.bindings.runtime``.

Memory, streams, events and graphs are handled by address. A failing call raises DeviceError with
CUDA's name and text and what to do about it. Source: https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError, MissingPackageError

_NEEDS = "CUDA 13 needs an NVIDIA GPU with driver 580 or newer"

_ADVICE = {
    "cudaErrorNoDevice": f"{_NEEDS}; check nvidia-smi and CUDA_VISIBLE_DEVICES",
    "cudaErrorMemoryAllocation": "the GPU is out of memory; feed a smaller batch, or free memory "
    "that other processes hold (nvidia-smi lists them)",
}
_RESTART = "the CUDA context of this process may be unusable now; load the engine in a new process"

_LOST = frozenset(
    f"cudaError{name}"
    for name in (
        "ECCUncorrectable",
        "NvlinkUncorrectable",
        "Contained",
        "IllegalAddress",
        "LaunchTimeout",
        "ContextIsDestroyed",
        "Assert",
        "HardwareStackError",
        "IllegalInstruction",
        "MisalignedAddress",
        "InvalidAddressSpace",
        "InvalidPc",
        "LaunchFailure",
        "TensorMemoryLeak",
        "ExternalDevice",
        "Unknown",
    )
)
"""Statuses behind which every later call of the process fails too, as CUDA documents them."""


class DeviceLostError(DeviceError):
    """The GPU or this process's CUDA context is lost; nothing on it answers any more."""


@dataclass(frozen=True)
class PinnedMemory:
    """Page-locked host memory.

    Attributes:
        address: where it starts.
        bytes: the same memory as uint8 [size]; dead once it is freed.
    """

    address: int
    bytes: NDArray[np.uint8]


class Cuda:
    """CUDA runtime calls of one process.

    Args:
        api: the module ``cuda.bindings.runtime``, or what stands in for it.
    """

    def __init__(self, api: Any) -> None:
        self._api = api

    @classmethod
    def open(cls) -> Cuda:
        """Import the bindings; needs no driver yet.

        Raises:
            MissingPackageError: when cuda-bindings is not installed.
        """
        try:
            return cls(importlib.import_module("cuda.bindings.runtime"))
        except ImportError as error:
            raise MissingPackageError(
                "cuda-bindings", "rtx", "running a TensorRT engine"
            ) from error

    @classmethod
    def blocker(cls) -> str | None:
        """None when a GPU can be used here, else what is missing and what to do."""
        try:
            cls.open().require_device()
        except (MissingPackageError, DeviceError) as error:
            return str(error)
        return None

    def require_device(self) -> None:
        """Check that a GPU and its driver can be used.

        Raises:
            DeviceError: naming the driver or the GPU that is missing.
        """
        status, count = self._api.cudaGetDeviceCount()
        if status.name == "cudaErrorInsufficientDriver":
            raise DeviceError(f"{self._driver()}: {self._describe(status)}; {_NEEDS}")
        self._check("count the GPUs", status)
        if not count:
            raise DeviceError(f"no NVIDIA GPU is visible; {_ADVICE['cudaErrorNoDevice']}")

    def device(self) -> int:
        """Index of the calling thread's GPU."""
        return int(self._call("find the current GPU", self._api.cudaGetDevice()))

    def use_device(self, index: int) -> None:
        """Make a GPU the calling thread's; the choice is per thread."""
        self._call("select a GPU", self._api.cudaSetDevice(index))

    @contextmanager
    def on_device(self, index: int) -> Iterator[None]:
        """Make a GPU the calling thread's, and the thread's own choice again afterwards."""
        before = self.device()
        if before == index:
            yield
            return
        self.use_device(index)
        try:
            yield
        finally:
            self.use_device(before)

    def compute_capability(self, device: int) -> str:
        """Compute capability of a GPU, for example ``SM90``."""
        attributes = self._api.cudaDeviceAttr
        query = self._api.cudaDeviceGetAttribute
        major = query(attributes.cudaDevAttrComputeCapabilityMajor, device)
        minor = query(attributes.cudaDevAttrComputeCapabilityMinor, device)
        what = "read the compute capability"
        return f"SM{self._call(what, major)}{self._call(what, minor)}"

    def gpu_name(self, device: int) -> str:
        """Name of a GPU, for example ``NVIDIA H200``."""
        found = self._call("read the name of a GPU", self._api.cudaGetDeviceProperties(device))
        return bytes(found.name).split(b"\0")[0].decode(errors="replace")

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the calling thread's GPU."""
        status, free, total = self._api.cudaMemGetInfo()
        self._check("read the free memory of a GPU", status)
        return int(free), int(total)

    def driver(self) -> str:
        """The newest CUDA version the driver of this machine serves, for example ``13.0``."""
        return _cuda(self._call("read the driver's version", self._api.cudaDriverGetVersion()))

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        flags = self._api.cudaStreamNonBlocking
        return int(self._call("create a stream", self._api.cudaStreamCreateWithFlags(flags)))

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back; work queued on it still ends."""
        self._call("destroy a stream", self._api.cudaStreamDestroy(stream))

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued on the stream has ended."""
        self._call("finish the work on the GPU", self._api.cudaStreamSynchronize(stream))

    def create_event(self) -> int:
        """A mark in a stream that other streams can wait for."""
        flags = self._api.cudaEventDisableTiming
        return int(self._call("create an event", self._api.cudaEventCreateWithFlags(flags)))

    def create_timed_event(self) -> int:
        """A mark that keeps the moment at which it was reached, for `elapsed`."""
        flags = self._api.cudaEventDefault
        return int(self._call("create an event", self._api.cudaEventCreateWithFlags(flags)))

    def elapsed(self, start: int, end: int) -> float:
        """Milliseconds of the GPU between two timed events that were reached."""
        answer = self._api.cudaEventElapsedTime(start, end)
        return float(self._call("read the time between two events", answer))

    def destroy_event(self, event: int) -> None:
        """Give an event back; waits that are queued still end."""
        self._call("destroy an event", self._api.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """Put the mark behind what is queued on the stream now."""
        self._call("record an event", self._api.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        """Hold back what is queued on the stream from now on until the mark is reached."""
        self._call("wait for an event", self._api.cudaStreamWaitEvent(stream, event, 0))

    def begin_capture(self, stream: int) -> None:
        """Record what is queued on the stream into a graph; other threads go on undisturbed."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("begin a capture", self._api.cudaStreamBeginCapture(stream, mode))

    def is_capturing(self, stream: int) -> bool:
        """Whether somebody records what is queued on the stream, which is not the default one."""
        answer = self._api.cudaStreamIsCapturing(stream)
        return bool(int(self._call("ask whether a stream is captured", answer)))

    def end_capture(self, stream: int) -> int:
        """End recording; the stream is usable again, also when this fails."""
        return int(self._call("end a capture", self._api.cudaStreamEndCapture(stream)))

    def instantiate(self, graph: int) -> int:
        """An executable of a recorded graph, launched as often as one likes."""
        return int(self._call("instantiate a graph", self._api.cudaGraphInstantiate(graph, 0)))

    def launch(self, executable: int, stream: int) -> None:
        """Queue everything the graph holds with one call."""
        self._call("launch a graph", self._api.cudaGraphLaunch(executable, stream))

    def destroy_graph(self, graph: int) -> None:
        """Give a recorded graph back; its executables stay."""
        self._call("destroy a graph", self._api.cudaGraphDestroy(graph))

    def destroy_executable(self, executable: int) -> None:
        """Give an executable back; a launch under way still ends."""
        self._call("destroy a graph", self._api.cudaGraphExecDestroy(executable))

    def forget_error(self) -> None:
        """Drop the error that a call left behind for the next one to report."""
        self._api.cudaGetLastError()

    def allocate(self, size: int, stream: int) -> int:
        """Address of ``size`` bytes on the GPU, usable by work queued on the stream from now on."""
        what = f"allocate {size:,} bytes on the GPU"
        return int(self._call(what, self._api.cudaMallocAsync(size, stream)))

    def free(self, address: int, stream: int) -> None:
        """Free GPU memory once the work queued so far has ended."""
        self._call("free GPU memory", self._api.cudaFreeAsync(address, stream))

    def allocate_pinned(self, size: int) -> PinnedMemory:
        """``size`` bytes of page-locked host memory, size at least 1."""
        flags = self._api.cudaHostAllocDefault
        what = f"allocate {size:,} bytes of page-locked host memory"
        address = int(self._call(what, self._api.cudaHostAlloc(size, flags)))
        memory = (ctypes.c_uint8 * size).from_address(address)
        return PinnedMemory(address, np.ctypeslib.as_array(memory))

    def free_pinned(self, memory: PinnedMemory) -> None:
        """Free page-locked memory; no queued copy may still use it."""
        self._call("free page-locked host memory", self._api.cudaFreeHost(memory.address))

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy of ``size`` bytes from pinned memory to the GPU."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        status = self._api.cudaMemcpyAsync(device, host, size, kind, stream)
        self._call(f"copy {size:,} bytes to the GPU", status)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy of ``size`` bytes from the GPU to pinned memory."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        status = self._api.cudaMemcpyAsync(host, device, size, kind, stream)
        self._call(f"copy {size:,} bytes from the GPU", status)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy of ``size`` bytes within the GPU."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        status = self._api.cudaMemcpyAsync(target, source, size, kind, stream)
        self._call(f"copy {size:,} bytes within the GPU", status)

    def _call(self, what: str, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        self._check(what, status)
        return values[0] if values else None

    def _check(self, what: str, status: Any) -> None:
        if status.name != "cudaSuccess":
            advice = _ADVICE.get(status.name, _RESTART)
            kind = DeviceLostError if status.name in _LOST else DeviceError
            raise kind(f"cannot {what}: {self._describe(status)}; {advice}")

    def _describe(self, status: Any) -> str:
        _, text = self._api.cudaGetErrorString(status)
        return f"{status.name} ({int(status)}): {bytes(text).decode()}"

    def _driver(self) -> str:
        _, version = self._api.cudaDriverGetVersion()
        if not version:
            return "no NVIDIA driver is installed on this machine"
        return f"the NVIDIA driver of this machine is too old (CUDA {_cuda(version)})"


def _cuda(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
