"""The memory of one call at a time, and the stream that fills and empties it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from ....graph.tensors import Array
from ..cuda import Cuda
from .buffers import Buffer, BufferSet
from .resources import give_back

Shape = tuple[int, ...]


class Slot:
    """One buffer set of a lane. A call has it to itself from beginning to end.

    Args:
        cuda: the CUDA facade.
        index: which one of its lane.
        most: bytes that a tensor takes at its largest; tensors left out may take any.

    Attributes:
        index: which one of its lane.
        stream: copies run here, beside the work of the other slots.
        uploaded: event behind the copies to the GPU.
        computed: event behind the run, on the lane's stream.
        buffers: memory of the tensors.
        recorded: generation of the buffers that CUDA graphs were recorded for.
    """

    def __init__(self, cuda: Cuda, index: int, most: Mapping[str, int]) -> None:
        self.index = index
        self.recorded = 0
        self._cuda = cuda
        self._held = False
        with ExitStack() as stack:
            self.stream = give_back(stack, cuda.destroy_stream, cuda.create_stream())
            self.uploaded = give_back(stack, cuda.destroy_event, cuda.create_event())
            self.computed = give_back(stack, cuda.destroy_event, cuda.create_event())
            self.buffers = BufferSet(cuda, self.stream, most)
            stack.callback(self.buffers.close)
            self._resources = stack.pop_all()

    def begin(self) -> None:
        """Let this call's copies wait for a run that was left to another stream."""
        if self._held:
            self._cuda.wait(self.stream, self.computed)
            self._held = False

    def leave(self) -> None:
        """The run may go on after the slot is free; its memory must not change before its end."""
        self._held = True

    def upload(self, name: str, array: Array, shape: Shape) -> None:
        """Queue a copy of an array to the GPU; the array is free at once.

        Args:
            name: the tensor.
            array: at most as large as ``shape`` on every axis.
            shape: what the run takes; the rest is filled with zeros.
        """
        size = math.prod(shape) * array.itemsize
        buffer = self.buffers.reserve(name, size)
        staged = view(buffer, shape, array.dtype)
        if array.shape == shape:
            np.copyto(staged, array)
        else:
            staged[...] = 0
            staged[tuple(map(slice, array.shape))] = array
        self._cuda.copy_to_device(buffer.device, buffer.host.address, size, self.stream)

    def download(self, buffer: Buffer, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """Queue a copy from the GPU; the view holds it once the stream is synchronised."""
        staged = view(buffer, shape, dtype)
        self._cuda.copy_to_host(buffer.host.address, buffer.device, staged.nbytes, self.stream)
        return staged

    def close(self) -> None:
        """Free everything; queued work must have ended."""
        self._resources.close()


def view(buffer: Buffer, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """The beginning of a buffer's host memory as an array."""
    size = math.prod(shape) * dtype.itemsize
    return buffer.host.bytes[:size].view(dtype).reshape(shape)
