"""One vector a sequence becomes one vector a text: [batch, ...] becomes [rows * slots, ...].

    ReduceSum(x, axis=1)       ->  MatMul(member [rows, slots, length], x), one row a text
    Gather(x, 0, axis=1)       ->  the same with the first token of each text

The sum over a product with 0 and 1 is the sum, or the token, itself. What follows knows sizes of
the batch that are those of the texts now.
"""

from __future__ import annotations

import onnx_ir as ir

from ..constants import ints_of, producer, scalar_of
from .layout import TEXTS, PackedInputs
from .roles import Miss, rank_of


def pooled(node: ir.Node, inputs: PackedInputs) -> ir.Value | None:
    """The value that takes the place of a pooled one, or None when the node does not pool.

    Raises:
        Miss: when it pools otherwise than by a sum or the first token.
    """
    source = node.inputs[0]
    if source is None or not _touches_tokens(node, rank_of(source)):
        return None
    if node.op_type == "ReduceSum":
        return _summed(node, source, inputs)
    if node.op_type == "Gather" and scalar_of(node.inputs[1]) == 0:
        return _first(source, inputs, keeps_axis=rank_of(node.outputs[0]) == rank_of(source))
    if node.op_type == "Slice" and _is_first(node):
        return _first(source, inputs, keeps_axis=True)
    raise Miss("it pools tokens otherwise than by their sum or the first of them")


def _touches_tokens(node: ir.Node, rank: int) -> bool:
    """Whether the node works along axis 1."""
    if node.op_type == "Gather":
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        return axis % rank == 1
    if node.op_type == "Slice":
        axes = ints_of(node.inputs[3]) if len(node.inputs) > 3 else None
        return axes is None or 1 in {axis % rank for axis in axes}
    if node.op_type.startswith("Reduce"):
        axes = ints_of(node.inputs[1]) if len(node.inputs) > 1 else None
        return axes is None or bool({0, 1} & {axis % rank for axis in axes})
    return False


def _is_first(node: ir.Node) -> bool:
    ranges = [ints_of(value) for value in node.inputs[1:4]]
    steps = ints_of(node.inputs[4]) if len(node.inputs) > 4 else (1,)
    return ranges == [(0,), (1,), (1,)] and steps == (1,)


def _summed(node: ir.Node, source: ir.Value, inputs: PackedInputs) -> ir.Value:
    keeps = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
    axes = ints_of(node.inputs[1]) or ()
    if {axis % rank_of(source) for axis in axes} != {1}:
        raise Miss(f"it sums over the axes {list(axes)}; expected that of the tokens alone")
    return _selected(source, inputs, first=False, keeps_axis=keeps)


def _first(source: ir.Value, inputs: PackedInputs, *, keeps_axis: bool) -> ir.Value:
    return _selected(source, inputs, first=True, keeps_axis=keeps_axis)


def _selected(source: ir.Value, inputs: PackedInputs, *, first: bool, keeps_axis: bool) -> ir.Value:
    if rank_of(source) != 3 or source.dtype is None or not source.dtype.is_floating_point():
        raise Miss("expected float tokens [rows, length, width] to pool")
    member = inputs.members(source.dtype, first=first)
    vectors = inputs.tape.op("MatMul", [member, source])
    width = source.shape[2] if source.shape is not None else None
    shape: list[int] = [-1, 1] if keeps_axis else [-1]
    if not isinstance(width, int):
        raise Miss("the width of the tokens it pools is unknown")
    flat = inputs.tape.op("Reshape", [vectors, inputs.constant("texts", [*shape, width])])
    flat.type = source.type
    flat.shape = ir.Shape([TEXTS, *shape[1:], width])
    return flat


def resize(sizes: ir.Value, texts: ir.Value, inputs: PackedInputs) -> ir.Value:
    """Sizes that begin with the batch, with the number of texts in its place.

    Args:
        sizes: what Expand or Reshape is told, computed from sizes.
        texts: [rows * slots, ...].
        inputs: of the packed graph.

    Raises:
        Miss: when they are computed in another way.
    """
    concat = producer(sizes, "Concat")
    parts = [sizes] if concat is None else list(concat.inputs)
    batch = producer(parts[0], "Shape")
    rest_is_constant = all(ints_of(part) is not None for part in parts[1:])
    if batch is None or not rest_is_constant or not _is_batch(batch):
        raise Miss("it reads sizes of the batch in an unknown way")
    size = inputs.tape.op("Shape", [texts], {"start": 0, "end": 1})
    size.type, size.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    if concat is None:
        return size
    whole = inputs.tape.op("Concat", [size, *parts[1:]], {"axis": 0})
    whole.type, whole.shape = sizes.type, sizes.shape
    return whole


def _is_batch(shape: ir.Node) -> bool:
    start = shape.attributes.get("start")
    end = shape.attributes.get("end")
    return (start is None or start.as_int() == 0) and end is not None and end.as_int() == 1
