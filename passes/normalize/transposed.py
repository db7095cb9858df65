"""A large constant with its axes in another order, computed when it is read and not before."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array

_LAZY_BYTES = 1 << 20
"""From here on a copy in memory is worth avoiding."""

_BLOCK_BYTES = 1 << 23
"""Written at once: the largest weights are as large as a machine's memory."""


class _View(ir.Tensor[Array]):
    """An array with its axes in another order, which is copied a block at a time."""

    def tofile(self, file: BinaryIO) -> None:
        """Write the elements in order."""
        array = self.numpy()
        rows = max(1, _BLOCK_BYTES * len(array) // max(array.nbytes, 1))
        for start in range(0, len(array), rows):
            file.write(np.ascontiguousarray(array[start : start + rows]).tobytes())


def transposed(value: ir.Value | None, order: tuple[int, ...]) -> ir.TensorProtocol | None:
    """A large constant with its axes in an order; None for a small one or another rank.

    Nothing is held in memory: every reading maps the file of the weight anew and lets go of it.

    Args:
        value: any value.
        order: as the operator Transpose has it.
    """
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.nbytes < _LAZY_BYTES or tensor.dtype.bitwidth < 8:
        return None
    sizes = tensor.shape.numpy()
    if sorted(order) != list(range(len(sizes))):
        return None
    source = tensor

    def compute() -> ir.TensorProtocol:
        return _View(np.transpose(_unmapped(source).numpy(), order), dtype=source.dtype)

    shape = ir.Shape([sizes[axis] for axis in order])
    return ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape)


def _unmapped(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same tensor without its map of the file, which would keep what was read in memory."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        base_dir=tensor.base_dir,
    )
