"""How many elements a constant will have, before it is computed: a file can ask for any number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..constants import array_of

Inputs = Sequence[Array]


def predicted_elements(node: ir.Node) -> int:
    """Elements of the result of a node on constants, 0 where its inputs bound them.

    Raises:
        ValueError: when the inputs do not fit the operator.
    """
    predict = _GROWING.get(node.op_type)
    inputs = [array for array in map(array_of, node.inputs) if array is not None]
    try:
        return 0 if predict is None else predict(inputs)
    except (TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _product(array: Array) -> int:
    return math.prod(int(size) for size in array.reshape(-1))


def _expanded(inputs: Inputs) -> int:
    shape = tuple(int(size) for size in inputs[1].reshape(-1))
    return math.prod(np.broadcast_shapes(shape, inputs[0].shape))


def _range(inputs: Inputs) -> int:
    start, limit, delta = (float(array.reshape(())) for array in inputs)
    return max(0, math.ceil((limit - start) / delta))


def _padded(inputs: Inputs) -> int:
    pads = [int(size) for size in inputs[1].reshape(-1)]
    rank = inputs[0].ndim
    if len(pads) != 2 * rank:
        return 0  # some axes only: the reference implementation is left to find out which
    sums = zip(inputs[0].shape, pads[:rank], pads[rank:], strict=True)
    return math.prod(max(size + before + after, 0) for size, before, after in sums)


def _resized(inputs: Inputs) -> int:
    """By sizes where they are integers, by scales elsewhere."""
    last = inputs[-1]
    if last.dtype.kind == "i":
        return _product(last)
    return int(inputs[0].size * math.prod(float(scale) for scale in last.reshape(-1)))


_GROWING: Mapping[str, Callable[[Inputs], int]] = {
    "ConstantOfShape": lambda inputs: _product(inputs[0]),
    "Expand": _expanded,
    "OneHot": lambda inputs: inputs[0].size * int(inputs[1].reshape(-1)[0]),
    "Pad": _padded,
    "Range": _range,
    "Resize": _resized,
    "Tile": lambda inputs: inputs[0].size * _product(inputs[1]),
}
"""Operators whose inputs name the size of the result: https://onnx.ai/onnx/operators."""
