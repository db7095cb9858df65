"""Calls on feeds that stay in GPU memory, timed by the GPU's own clock."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from ...graph.tensors import Array, Feeds
from ..base import DlpackTensor, Engine
from .cuda import Cuda
from .executor.device_tensor import DeviceMemory, DeviceTensor
from .executor.dlpack import CUDA, DeviceView


class TimedCalls:
    """One stream with two events around each call.

    A call is made when the one before has ended, so the time between the events includes what the
    host takes to queue the kernels, where the GPU waits for it. Use it from one thread.

    Args:
        runner: an engine of TensorRT, on the calling thread's GPU.
        feeds: each is copied to the GPU once.
        cuda: the CUDA facade; None opens it.

    Raises:
        DeviceError: when the GPU has not enough memory.
    """

    def __init__(self, runner: Engine, feeds: Sequence[Feeds], cuda: Cuda | None = None) -> None:
        self._runner = runner
        self._cuda = Cuda.open() if cuda is None else cuda
        with ExitStack() as stack:
            self._stream = self._cuda.create_stream()
            stack.callback(self._cuda.destroy_stream, self._stream)
            self._start, self._end = (self._event(stack) for _ in range(2))
            self._feeds: list[Mapping[str, DlpackTensor]] = []
            stack.callback(self._drop)
            for arrays in feeds:
                self._feeds.append({n: self._resident(array) for n, array in arrays.items()})
            self._resources = stack.pop_all()

    def run(self, number: int) -> float:
        """Make a call on the feeds of this number, modulo their count.

        Returns:
            Milliseconds that the GPU took.

        Raises:
            DeviceError: when the GPU fails.
            FeedError: when the engine does not take the feeds.
        """
        cuda, stream = self._cuda, self._stream
        cuda.record(self._start, stream)
        outputs = self._runner.run_dlpack(self._feeds[number % len(self._feeds)], stream=stream)
        cuda.record(self._end, stream)
        cuda.synchronize(stream)
        del outputs
        return cuda.elapsed(self._start, self._end)

    def close(self) -> None:
        """Free memory, events and stream; may be called twice."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _event(self, stack: ExitStack) -> int:
        event = self._cuda.create_timed_event()
        stack.callback(self._cuda.destroy_event, event)
        return event

    def _resident(self, array: Array) -> DeviceTensor:
        """A copy in GPU memory."""
        cuda, device = self._cuda, self._cuda.device()
        size = max(1, array.nbytes)
        memory = DeviceMemory(cuda, device, size, self._stream)
        pinned = cuda.allocate_pinned(size)
        try:
            ctypes.memmove(pinned.address, array.ctypes.data, array.nbytes)
            cuda.copy_to_device(memory.address, pinned.address, size, self._stream)
            cuda.synchronize(self._stream)
        finally:
            cuda.free_pinned(pinned)
        view = DeviceView(memory.address, array.shape, array.dtype, (CUDA, device), contiguous=True)
        return DeviceTensor(cuda, view, memory, self._stream)

    def _drop(self) -> None:
        self._feeds.clear()
        self._cuda.synchronize(self._stream)
