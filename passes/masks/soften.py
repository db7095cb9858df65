"""Finite fills for a mask that is left as it is.

The lowest number and -infinity give other answers than PyTorch's eager attention for a row whose
every key is hidden (see fill.py), and two of them added are -infinity. Boolean masks become
additive: what the operator answers for such a row is left open, and runtimes differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..constants import array_of, initializer, insert_before, producer
from .fill import mask_fill

_CARRIERS = frozenset(
    {
        "Cast", "Concat", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Reshape", "Slice",
        "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze",
    }
)  # fmt: skip
_ARITHMETIC = frozenset({"Add", "Max", "Min", "Mul", "Sub"})


def soften(graph: ir.Graph, mask: ir.Value, dtype: ir.DataType) -> ir.Value | None:
    """A mask in place of the given one whose hidden keys get the canonical fill.

    Args:
        graph: gets the constants; constants of the mask are replaced where the mask reads them.
        mask: boolean or float.
        dtype: of the queries.

    Returns:
        The new mask, or None when nothing had to change.
    """
    if mask.dtype == ir.DataType.BOOL:
        zero = initializer(graph, "mask.keep", np.zeros((), dtype.numpy()))
        fill = _fill(graph, dtype)
        return _behind(graph, "Where", [mask, zero, fill], mask, dtype)
    softened = sum(_soften_inputs(graph, node) for node in _mask_nodes(mask))
    sums = [node for node in _mask_nodes(mask) if node.op_type == "Add" and _adds_fills(node)]
    if sums and producer(mask, "Max") is None:
        return _behind(graph, "Max", [mask, _fill(graph, dtype)], mask, dtype)
    return mask if softened else None


def _fill(graph: ir.Graph, dtype: ir.DataType) -> ir.Value:
    return initializer(graph, "mask.drop", np.array(mask_fill(dtype), dtype.numpy()))


def _behind(
    graph: ir.Graph, op_type: str, inputs: list[ir.Value], mask: ir.Value, dtype: ir.DataType
) -> ir.Value:
    """The output of a new node where every reader of the mask can read it."""
    tape = ir.tape.Tape()
    new = tape.op(op_type, inputs)
    new.shape, new.type = mask.shape, ir.TensorType(dtype)
    maker = mask.producer()
    if maker is None:
        insert_before(graph[0], tape.nodes)
    else:
        graph.insert_after(maker, tape.nodes)
    return new


def _mask_nodes(mask: ir.Value) -> Iterator[ir.Node]:
    """The nodes through which a constant of the mask reaches it."""
    pending, seen = [mask], set[ir.Node]()
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen or node.domain:
            continue
        seen.add(node)
        carried = _carried(node)
        if carried:
            yield node
            pending.extend(carried)


def _carried(node: ir.Node) -> list[ir.Value]:
    if node.op_type == "Where":
        values = node.inputs[1:]
    elif node.op_type in _CARRIERS:
        values = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    else:
        values = node.inputs if node.op_type in _ARITHMETIC else ()
    return [value for value in values if value is not None]


def _soften_inputs(graph: ir.Graph, node: ir.Node) -> int:
    """Replace the constants of a node that hold the lowest number or -infinity."""
    carried, count = _carried(node), 0
    for position, value in enumerate(node.inputs):
        if value is None or value not in carried or value.dtype is None:
            continue
        softer = _softer(array_of(value), value.dtype)
        if softer is not None:
            node.replace_input_with(position, initializer(graph, f"{value.name}.softened", softer))
            count += 1
    return count


def _softer(array: Array | None, dtype: ir.DataType) -> Array | None:
    if array is None or not dtype.is_floating_point():
        return None
    fill = np.array(mask_fill(dtype)).astype(array.dtype)
    too_low = np.less(array, fill)
    return np.where(too_low, fill, array) if bool(np.any(too_low)) else None


def _adds_fills(node: ir.Node) -> bool:
    """Whether both operands can hide a key."""
    return all(value is not None and _can_hide(value) for value in node.inputs)


def _can_hide(value: ir.Value) -> bool:
    """Whether a constant reaches the value of which two overflow."""
    values = [value, *(x for node in _mask_nodes(value) for x in _carried(node))]
    return any(_overflows_doubled(array_of(x), x.dtype) for x in values)


def _overflows_doubled(array: Array | None, dtype: ir.DataType | None) -> bool:
    if array is None or dtype is None or not dtype.is_floating_point():
        return False
    return bool(np.any(np.less(array.astype(np.float64), 0.5 * float(dtype.min))))
