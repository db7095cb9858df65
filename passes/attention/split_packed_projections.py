"""Split packed projections on their last axis, where a matrix product wrote them.

    Reshape(x W, [b, s, 3, heads, size]), then one part at a time
      ->  Reshape(Split(x W, 3 on the last axis), [b, s, heads, size])

Attention then sees three split heads, and quantisation an ordinary product. Where the weight packs
the parts inside each head ([heads, 3, size] or [heads, size, 3]), its columns are put in order
first, when it is a constant that nobody else reads; an engine computes that when it reads them.

Source: https://onnx.ai/onnx/operators/onnx__Split.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import (
    array_of,
    initializer,
    initializer_of,
    insert_before,
    producer,
    remove_dead,
    replace_value,
)
from .packed_parts import Miss, Packed, packed_of


@dataclass(frozen=True)
class SplitPackedProjections(Pass):
    """Replace unpacking by five axes, or inside of heads, by a Split of the last of three.

    A Reshape whose result is read one entry of an axis at a time counts as found; one that is not
    replaced is refused with the first difference met.
    """

    name = "split-packed-projections"
    min_opset = 13

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.graph is None or node.domain or node.op_type != "Reshape":
                continue
            try:
                packed = packed_of(node)
                if packed is None:
                    continue
                if packed.parts_axis:
                    _order_columns(model.graph, packed)
            except Miss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
                continue
            _split(model.graph, node, packed)
            rewrites += 1
        return result(model, rewrites, tuple(refusals))


def _split(graph: ir.Graph, reshape: ir.Node, packed: Packed) -> None:
    tape = ir.tape.Tape()
    count = packed.sizes[packed.parts_axis]
    first, second = (size for axis, size in enumerate(packed.sizes) if axis != packed.parts_axis)
    widths = initializer(graph, "part_widths", np.full(count, first * second, np.int64))
    target = initializer(graph, "part_heads", np.array([0, 0, first, second], np.int64))
    pieces = tape.op_multi_out("Split", [packed.source, widths], {"axis": -1}, num_outputs=count)
    assert packed.source.shape is not None
    leading = list(packed.source.shape)[:2]
    heads: dict[int, ir.Value] = {}
    for piece in pieces:
        _type(piece, packed.source, [*leading, first * second])
    for index in sorted({index for _, index in packed.parts}):
        heads[index] = tape.op("Reshape", [pieces[index], target])
        _type(heads[index], packed.source, [*leading, first, second])
    insert_before(reshape, tape.nodes)
    for part, index in packed.parts:
        _put(reshape, part, heads[index], packed.order)
    remove_dead(reshape)


def _put(reshape: ir.Node, part: ir.Value, heads: ir.Value, order: tuple[int, ...]) -> None:
    """Let the readers of a part read split heads, transposed as the part was."""
    new, old = heads, part.producer()
    assert old is not None
    if order != (0, 1, 2, 3):
        tape = ir.tape.Tape()
        new = tape.op("Transpose", [heads], {"perm": list(order)})
        assert heads.shape is not None
        _type(new, heads, [heads.shape[axis] for axis in order])
        insert_before(reshape, tape.nodes)
    replace_value(part, new)
    remove_dead(old)


def _type(value: ir.Value, like: ir.Value, dims: list[int | ir.SymbolicDim]) -> None:
    value.type, value.shape = like.type, ir.Shape(dims)


def _order_columns(graph: ir.Graph, packed: Packed) -> None:
    """Move the parts to the front of the columns of the product that is packed.

    Raises:
        Miss: when its weight or bias is no constant or is read elsewhere too.
    """
    layout = f"the parts are packed inside of {list(packed.sizes)}"
    bias_add = producer(packed.source, "Add")
    product = producer(packed.source if bias_add is None else bias_add.inputs[0], "MatMul")
    if product is None:
        raise Miss(f"{layout}, and {packed.source.name!r} is no product with a weight")
    owners = [product] if bias_add is None else [product, bias_add]
    for value in dict.fromkeys((packed.source, product.outputs[0])):
        if len(value.uses()) != 1 or value.is_graph_output():
            raise Miss(f"{layout}, and {value.name!r} is read elsewhere too")
    changes = []
    for owner in owners:
        constant = owner.inputs[1]
        reason = _immovable(constant, int(np.prod(packed.sizes)))
        if constant is None or reason is not None:
            raise Miss(f"{layout}, and input 1 of {owner.name!r} is {reason}")
        ordered = _ordered(constant, packed)
        changes.append((owner, f"{constant.name}.ordered", ordered))
    for owner, name, tensor in changes:
        owner.replace_input_with(1, initializer_of(graph, name, tensor))


def _immovable(constant: ir.Value | None, width: int) -> str | None:
    """Why columns cannot be put in order, or None."""
    array = array_of(constant)
    if constant is None or array is None or array.shape[-1:] != (width,):
        return f"no constant of {width} columns"
    if len(constant.uses()) > 1 and array.ndim > 1:
        return f"the weight {constant.name!r}, which is shared"
    return None


def _ordered(value: ir.Value, packed: Packed) -> ir.TensorProtocol:
    """The columns in the order [part, ...], computed when an engine reads them and not before."""
    tensor = value.const_value
    assert tensor is not None
    shape = tensor.shape.numpy()

    def compute() -> ir.TensorProtocol:
        array = tensor.numpy().reshape(*shape[:-1], *packed.sizes)
        moved = np.moveaxis(array, packed.parts_axis - 3, -3)
        return ir.Tensor(np.ascontiguousarray(moved.reshape(shape)), dtype=tensor.dtype)

    return ir.LazyTensor(compute, dtype=tensor.dtype, shape=ir.Shape(shape), cache=True)
