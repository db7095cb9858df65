"""Stands in for the module ``cuda.bindings.runtime``."""

# ruff: noqa: N802, N803, N815, ARG002
from __future__ import annotations

import ctypes
import enum
import functools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from .streams import MisuseError, Scheduler, Stream, Work

LEGACY = 1


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class CopyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class DeviceAttribute(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


@dataclass(eq=False)
class Block:
    """Device memory; dead before its allocation and after its release are reached."""

    bytes: bytearray
    alive: bool = False
    scratch_of: Any = None


def call(values: int = 0) -> Callable[[Any], Any]:
    """A function of CUDA that returns a status and so many values, and can be made to fail."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        @functools.wraps(function)
        def answer(self: FakeCuda, *args: Any) -> tuple[Any, ...]:
            began = time.perf_counter_ns()
            with self.gpu:
                self.calls[name] += 1
                status = self._fault(name)
                if status and name == "cudaStreamEndCapture":
                    self.stream(args[0]).capture = None  # it ends the capture in any case
                result = None if status else function(self, *args)
                self.inside_ns += time.perf_counter_ns() - began
            if isinstance(result, Status):
                status, result = result, None
            many = result or (0,) * values if values > 1 else (result,) * values
            return (status or Status.cudaSuccess, *many)

        return answer

    return wrap


class FakeCuda:
    """A GPU of its own.

    Attributes:
        lost: a status that every call ends with from now on, as after a fatal error.
        calls: how often each function was called.
        inside_ns: time spent in here; meaningful with one thread.
        failed: the function that `fail_at` made fail, None as long as there was none.
        peaks: the most there ever was of each kind of thing that `leaks` counts.
        milliseconds: of the GPU's own clock, which moves only when a test moves it.
    """

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaEventDefault = 0
    cudaEventDisableTiming = 2
    cudaMemcpyKind = CopyKind
    cudaDeviceAttr = DeviceAttribute
    cudaStreamCaptureMode = CaptureMode

    def __init__(
        self, devices: int = 2, capability: tuple[int, int] = (8, 9), seed: int = 0
    ) -> None:
        self.devices = devices
        self.capability = capability
        self.driver = 13000
        self.gpu_name = "NVIDIA L4"
        self.gpu_memory = 24 << 30
        self.gpu = threading.RLock()
        self.lost: Status | None = None
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Work | None] = {}
        self.milliseconds = 0.0
        self._moments: dict[int, float | None] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self._launched: dict[int, Work | None] = {}
        self.memory: dict[int, Block] = {}
        self.pinned: dict[int, Any] = {}
        self.allocations = 0
        self.calls: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.inside_ns = 0
        self._scheduler = Scheduler(seed)
        self._faults: dict[str, list[Status]] = {}
        self.failed: str | None = None
        self._countdown = 0
        self._blow = Status.cudaSuccess
        self._current = threading.local()
        self._legacy = [Stream(device) for device in range(devices)]
        self._next = 0x7F0000000000

    def fail(self, name: str, *statuses: Status) -> None:
        """Let the next calls of a function end with these statuses."""
        self._faults[name] = list(statuses)

    def fail_at(self, number: int, status: Status) -> None:
        """Let one call end with a status: the so-manieth from now, whichever it is."""
        self._countdown, self._blow, self.failed = number, status, None

    def leaks(self) -> dict[str, int]:
        """How many there are of everything that must be given back, without the zeros."""
        with self.gpu:
            for stream in (*self.streams.values(), *self._legacy):
                if stream.capture is None:
                    self._finish(stream)
            return {name: count for name, count in self._held().items() if count}

    def cudaGetErrorString(self, error: Status) -> tuple[Status, bytes]:
        return Status.cudaSuccess, f"text of {error.name}".encode()

    def cudaDriverGetVersion(self) -> tuple[Status, int]:
        return Status.cudaSuccess, self.driver

    def cudaGetDevice(self) -> tuple[Status, int]:
        return Status.cudaSuccess, getattr(self._current, "device", 0)

    def cudaSetDevice(self, device: int) -> tuple[Status]:
        self._current.device = device
        return (self.lost or Status.cudaSuccess,)

    def cudaGetLastError(self) -> tuple[Status]:
        self.calls["cudaGetLastError"] += 1
        return (self.lost or Status.cudaSuccess,)

    @call(values=1)
    def cudaGetDeviceCount(self) -> int:
        return self.devices

    @call(values=1)
    def cudaDeviceGetAttribute(self, attr: DeviceAttribute, device: int) -> int:
        return self.capability[int(attr) - 75]

    @call(values=1)
    def cudaGetDeviceProperties(self, device: int) -> Any:
        return SimpleNamespace(name=self.gpu_name.encode() + b"\0\0")

    @call(values=2)
    def cudaMemGetInfo(self) -> tuple[int, int]:
        held = sum(len(block.bytes) for block in self.memory.values())
        return self.gpu_memory - held, self.gpu_memory

    @call(values=1)
    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        if flags != self.cudaStreamNonBlocking:
            raise MisuseError("a blocking stream waits for the default stream")
        return self._keep(self.streams, Stream(self.cudaGetDevice()[1]))

    @call()
    def cudaStreamDestroy(self, stream: int) -> None:
        self._finish(self.stream(stream))
        del self.streams[stream]

    @call()
    def cudaStreamSynchronize(self, stream: int) -> Status | None:
        target = self.stream(stream, default=True)
        if target.capture is not None:
            target.broken = True
            return Status.cudaErrorStreamCaptureUnsupported
        self._finish(target)
        return None

    @call(values=1)
    def cudaEventCreateWithFlags(self, flags: int) -> int:
        event = self._keep(self.events, None)
        if flags != self.cudaEventDisableTiming:
            self._moments[event] = None
        return event

    @call()
    def cudaEventDestroy(self, event: int) -> None:
        del self.events[event]
        self._moments.pop(event, None)

    @call()
    def cudaEventRecord(self, event: int, stream: int) -> None:
        source = self._ordinary(stream)
        if event not in self.events:
            raise MisuseError(f"event {event} does not exist")
        if event in self._moments:
            source.push(lambda: self._moments.__setitem__(event, self.milliseconds))
        self.events[event] = source.last

    @call(values=1)
    def cudaEventElapsedTime(self, start: int, end: int) -> float:
        moments = [self._moments.get(event) for event in (start, end)]
        if moments[0] is None or moments[1] is None:
            raise MisuseError("the time between events that keep none, or were not reached")
        return moments[1] - moments[0]

    @call()
    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        self._ordinary(stream).push(lambda: None, after=self.events[event])

    @call(values=1)
    def cudaMallocAsync(self, size: int, hStream: int) -> int:
        block = Block(bytearray(b"\xab" * size))
        self._next += size
        address = self._keep(self.memory, block)
        self._ordinary(hStream).push(lambda: setattr(block, "alive", True))
        self.allocations += 1
        return address

    @call()
    def cudaFreeAsync(self, devPtr: int, hStream: int) -> None:
        if devPtr not in self.memory:
            raise MisuseError(f"cudaFreeAsync of {devPtr:#x}, which is not the start of a block")
        self._ordinary(hStream).push(lambda: self._free(devPtr))

    @call(values=1)
    def cudaHostAlloc(self, size: int, flags: int) -> int:
        if flags != self.cudaHostAllocDefault:
            raise MisuseError(f"flags {flags}")
        block = (ctypes.c_uint8 * size)(*(b"\xcd" * size))
        self.pinned[ctypes.addressof(block)] = block
        self._note_peaks()
        return ctypes.addressof(block)

    @call()
    def cudaFreeHost(self, ptr: int) -> None:
        if ptr not in self.pinned:
            raise MisuseError(f"cudaFreeHost of {ptr:#x}, which is not page-locked memory")
        # Scribble first, so that a result that still points into the block shows.
        block = self.pinned.pop(ptr)
        ctypes.memset(ptr, 0xEE, len(block))

    @call()
    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: CopyKind, stream: int) -> None:
        copy = {
            CopyKind.cudaMemcpyHostToDevice: self._upload,
            CopyKind.cudaMemcpyDeviceToHost: self._download,
            CopyKind.cudaMemcpyDeviceToDevice: self._move,
        }[kind]
        self.stream(stream, default=True).push(copy(dst, src, count))

    @call()
    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> None:
        target = self.stream(stream)
        if target.capture is not None:
            raise MisuseError("the stream captures already")
        target.capture, target.broken = [], False

    @call(values=1)
    def cudaStreamIsCapturing(self, stream: int) -> int:
        return int(self.stream(stream).capture is not None)

    @call(values=1)
    def cudaStreamEndCapture(self, stream: int) -> int | Status:
        target = self.stream(stream)
        actions, target.capture = target.capture, None
        if actions is None or target.broken:
            return Status.cudaErrorStreamCaptureInvalidated
        return self._keep(self.graphs, actions)

    @call(values=1)
    def cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        return self._keep(self.executables, self.graphs[graph])

    @call()
    def cudaGraphLaunch(self, graphExec: int, stream: int) -> None:
        if graphExec not in self.executables:
            raise MisuseError("launch of a graph that was destroyed")
        for action in self.executables[graphExec]:
            self._ordinary(stream).push(action)
        self._launched[graphExec] = self.stream(stream).last

    @call()
    def cudaGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    @call()
    def cudaGraphExecDestroy(self, graphExec: int) -> None:
        launched = self._launched.pop(graphExec, None)
        if launched is not None and not launched.done:
            raise MisuseError("a graph is destroyed that has not run to its end")
        del self.executables[graphExec]

    def stream(self, handle: int, *, default: bool = False) -> Stream:
        device = self.cudaGetDevice()[1]
        if default and handle == LEGACY:
            return self._legacy[device]
        if handle not in self.streams:
            raise MisuseError(f"stream {handle} is the default stream or does not exist")
        if self.streams[handle].device != device:
            raise MisuseError("this thread's current device is not the stream's")
        return self.streams[handle]

    def _ordinary(self, handle: int) -> Stream:
        """A stream that captures nothing: what is meant for now would end up in the graph."""
        stream = self.stream(handle, default=True)
        if stream.capture is not None:
            raise MisuseError("memory, events and launches of a call go into another one's graph")
        return stream

    def span(self, address: int, size: int, *, queued: bool = False) -> memoryview:
        """Device memory at an address; ``queued``: it need not be alive yet."""
        base = address if address in self.memory else self._base(address)
        block = self.memory[base]
        if not (block.alive or queued):
            raise MisuseError(f"{address:#x} is used before its allocation is reached")
        offset = address - base
        if offset + size > len(block.bytes):
            raise MisuseError(f"{size} bytes at a buffer of {len(block.bytes) - offset}")
        return memoryview(block.bytes)[offset : offset + size]

    def _base(self, address: int) -> int:
        for base, block in self.memory.items():
            if base < address < base + len(block.bytes):
                return base
        raise MisuseError(f"{address:#x} is not device memory, or was freed")

    def _upload(self, dst: int, src: int, count: int) -> Callable[[], None]:
        self.span(dst, count, queued=True)
        queued = bytes(self._pinned_bytes(src, count)[:count])

        def copy() -> None:
            if bytes(self._pinned_bytes(src, count)[:count]) != queued:
                raise MisuseError("page-locked memory changed under a queued copy")
            self.span(dst, count)[:] = queued

        return copy

    def _download(self, dst: int, src: int, count: int) -> Callable[[], None]:
        self.span(src, count, queued=True)
        self._pinned_bytes(dst, count)

        def copy() -> None:
            self._pinned_bytes(dst, count)
            ctypes.memmove(dst, bytes(self.span(src, count)), count)

        return copy

    def _move(self, dst: int, src: int, count: int) -> Callable[[], None]:
        def copy() -> None:
            self.span(dst, count)[:] = bytes(self.span(src, count))

        return copy

    def _pinned_bytes(self, address: int, size: int) -> Any:
        if address not in self.pinned or size > len(self.pinned[address]):
            raise MisuseError(f"{size} bytes at {address:#x} are not page-locked memory")
        return self.pinned[address]

    def _keep(self, table: dict[int, Any], value: Any) -> int:
        self._next = (self._next + 4096) // 256 * 256
        table[self._next] = value
        self._note_peaks()
        return self._next

    def _held(self) -> dict[str, int]:
        return {
            "memory": len(self.memory),
            "pinned": len(self.pinned),
            "streams": len(self.streams),
            "events": len(self.events),
            "graphs": len(self.graphs) + len(self.executables),
        }

    def _note_peaks(self) -> None:
        for name, count in self._held().items():
            self.peaks[name] = max(self.peaks[name], count)

    def _free(self, address: int) -> None:
        del self.memory[address]

    def _finish(self, stream: Stream) -> None:
        self._scheduler.finish(stream, [*self.streams.values(), *self._legacy])

    def _fault(self, name: str) -> Status | None:
        if self.lost is not None:
            return self.lost
        self._countdown -= 1
        if self._countdown == 0:
            self.failed = name
            return self._blow
        queue = self._faults.get(name)
        return (queue.pop(0) or None) if queue else None
