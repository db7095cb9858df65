"""An output in GPU memory, for any library that takes DLPack or the CUDA array interface."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

from ....errors import DeviceError
from ....graph.tensors import Array
from ..cuda import Cuda
from .dlpack import (
    LEGACY_STREAM,
    PER_THREAD_REFUSAL,
    PER_THREAD_STREAM,
    DeviceView,
    capsule,
)


class DeviceMemory:
    """GPU memory that frees itself, behind the work of every stream that was told about it.

    Those streams must live as long as the memory does: CUDA does not tell a stream that is gone.

    Args:
        cuda: the CUDA facade.
        device: index of the current GPU.
        size: bytes, at least 1.
        stream: where it may be used first.

    Attributes:
        address: where it starts.
    """

    def __init__(self, cuda: Cuda, device: int, size: int, stream: int) -> None:
        self.address = cuda.allocate(size, stream)
        self._users = {stream: None}
        self._finalizer = weakref.finalize(self, _free, cuda, device, self.address, self._users)
        self._finalizer.atexit = False

    def used_on(self, stream: int) -> None:
        """A user queues work on this stream, behind that of the first."""
        self._users.pop(stream, None)
        self._users[stream] = None

    def free(self) -> None:
        """Free it now; further calls do nothing."""
        self._finalizer()


class DeviceTensor:
    """One output on the GPU.

    Attributes:
        shape: sizes.
        dtype: element type.
    """

    def __init__(self, cuda: Cuda, view: DeviceView, owner: object, stream: int) -> None:
        self.shape = view.shape
        self.dtype = view.dtype
        self._cuda = cuda
        self._view = view
        self._owner = owner
        self._stream = stream

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._view.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Lend the memory; what the consumer queues on ``stream`` sees the finished output.

        Raises:
            BufferError: when another device or a copy is asked for, or for the default stream of a
            thread, because another thread may free the memory.
        """
        del max_version  # the unversioned capsule is what every version takes
        if stream == PER_THREAD_STREAM:
            raise BufferError(PER_THREAD_REFUSAL)
        if copy or dl_device not in (None, self._view.device):
            raise BufferError(f"an engine's output is lent where it is, on {self._view.device}")
        self._order(stream or LEGACY_STREAM)
        return capsule(self._view, self._owner)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._view.address, False),
            "strides": None,
            "stream": self._stream,
            "version": 3,
        }

    def numpy(self) -> Array:
        """A copy in host memory."""
        cuda, size = self._cuda, self._view.nbytes
        with cuda.on_device(self._view.device[1]):
            pinned = cuda.allocate_pinned(max(size, 1))
            try:
                cuda.copy_to_host(pinned.address, self._view.address, size, self._stream)
                cuda.synchronize(self._stream)
            except DeviceError:
                # The copy may be under way still, and its memory can only be freed behind it.
                with suppress(DeviceError):
                    cuda.synchronize(self._stream)
                    cuda.free_pinned(pinned)
                raise
            array: Array = pinned.bytes[:size].view(self.dtype).reshape(self.shape).copy()
            cuda.free_pinned(pinned)
            return array

    def _order(self, stream: int) -> None:
        if stream in (-1, self._stream):
            return
        cuda = self._cuda
        with cuda.on_device(self._view.device[1]):
            _follow(cuda, stream, self._stream)
        if isinstance(self._owner, DeviceMemory):
            self._owner.used_on(stream)


def _follow(cuda: Cuda, stream: int, other: int) -> None:
    """Let what is queued on a stream next wait for what is queued on another one now."""
    event = cuda.create_event()
    try:
        cuda.record(event, other)
        cuda.wait(stream, event)
    finally:
        cuda.destroy_event(event)


def _free(cuda: Cuda, device: int, address: int, users: dict[int, None]) -> None:
    # The first is the lane's, which may be gone, and whose work all others wait for.
    *others, last = tuple(users)[1:] or tuple(users)
    with suppress(DeviceError), cuda.on_device(device):
        for stream in others:
            _follow(cuda, last, stream)
    for stream in (last, LEGACY_STREAM):
        with suppress(DeviceError), cuda.on_device(device):
            cuda.free(address, stream)
            return
