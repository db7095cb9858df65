"""Device and pinned host memory for the tensors of one call at a time; it grows and is reused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from ....errors import DeviceError
from ..cuda import Cuda, PinnedMemory


@dataclass(frozen=True)
class Buffer:
    """Memory for one tensor on both sides.

    Attributes:
        device: address on the GPU.
        host: page-locked memory of the same size.
    """

    device: int
    host: PinnedMemory

    @property
    def size(self) -> int:
        """Bytes on either side."""
        return self.host.bytes.size


class BufferSet:
    """One buffer a tensor, owned until `close`.

    Args:
        cuda: the CUDA facade.
        stream: the stream whose work uses the buffers.
        most: bytes that a tensor takes at its largest; tensors left out may take any.

    Attributes:
        generation: counts replaced buffers; a CUDA graph recorded under another value holds
            addresses that are gone.
    """

    def __init__(self, cuda: Cuda, stream: int, most: Mapping[str, int]) -> None:
        self.generation = 0
        self._most = most
        self._cuda = cuda
        self._stream = stream
        self._buffers: dict[str, Buffer] = {}

    @property
    def bytes(self) -> int:
        """What the buffers take on either side."""
        return sum(buffer.size for buffer in tuple(self._buffers.values()))  # others may add some

    def reserve(self, name: str, size: int) -> Buffer:
        """A buffer of at least ``size`` bytes for a tensor; its content is undefined.

        No work that uses the tensor's earlier buffer may be queued. A buffer that is too small is
        replaced by one at least twice as large, so that growing batches reallocate rarely, but not
        larger than the tensor ever is.

        Raises:
            DeviceError: when memory runs out; the tensor then has no buffer and may be tried again.
        """
        held = self._buffers.get(name)
        if held is not None and held.size >= size:
            return held
        if held is not None:
            self._release(name)
        ahead = 2 * held.size if held else 0
        ahead = min(ahead, self._most.get(name) or ahead)
        buffer = self._allocate(max(size, 1, ahead), at_least=max(size, 1))
        self._buffers[name] = buffer
        return buffer

    def close(self) -> None:
        """Free everything; queued work must have ended."""
        for name in tuple(self._buffers):
            # After a fatal CUDA error nothing can be freed any more, and that error was raised.
            with suppress(DeviceError):
                self._release(name)

    def _allocate(self, size: int, *, at_least: int) -> Buffer:
        try:
            return self._pair(size)
        except DeviceError:
            if size == at_least:
                raise
            return self._pair(at_least)

    def _pair(self, size: int) -> Buffer:
        host = self._cuda.allocate_pinned(size)
        try:
            return Buffer(self._cuda.allocate(size, self._stream), host)
        except DeviceError:
            self._cuda.free_pinned(host)
            raise

    def _release(self, name: str) -> None:
        self.generation += 1
        buffer = self._buffers.pop(name)
        try:
            self._cuda.free(buffer.device, self._stream)
        finally:
            self._cuda.free_pinned(buffer.host)
