"""Recognise rotary position embeddings spelled out in primitive operators.

    x * cos + rotate_half(x) * sin                     with rotate_half(lo, hi) = (-hi, lo)
    Concat(lo * cos - hi * sin, hi * cos + lo * sin)   the same with tables of half the width
      ->  RotaryEmbedding(x, cos, sin)
    x * cos + rotate_pairs(x) * sin                    with (a, b, ...) -> (-b, a, ...)
      ->  RotaryEmbedding(x, cos, sin, interleaved=1)

for x of shape [batch, heads, sequence, size], or [batch, sequence, heads, size] between two
transpositions. Where only the first columns are rotated and the rest is appended unchanged, the
operator does that too (``rotary_embedding_dim``).

Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html, arXiv 2104.09864
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import (
    insert_before,
    permutation_of,
    producer,
    remove_dead,
    replace_value,
    scalar_of,
    sole_consumer,
    static_dim,
)
from .expand_rotary_caches import expand_caches
from .rotary_match import Rotation, rotation_of, with_rest
from .rotary_tables import RotaryTables, TableMiss

_SWAP = (0, 2, 1, 3)


@dataclass(frozen=True)
class FuseRotaryEmbedding(Pass):
    """Replace rotations of heads by the operator of opset 23 in its 4-D form.

    Every product with a quarter turn that is added to a product counts as found; one that is not
    replaced is refused with the first difference met.
    """

    name = "fuse-rotary-embedding"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        tables = {
            interleaved: RotaryTables(model.graph, interleaved) for interleaved in (False, True)
        }
        for node in tuple(model.graph):
            if node.graph is None:
                continue
            try:
                rewrites += _fuse(node, tables)
            except TableMiss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
        if rewrites:
            # Every pass leaves a graph that runs, and the operator runs with the batch alone.
            refusals.extend(expand_caches(model)[1])
        return result(model, rewrites, tuple(refusals))


def _fuse(node: ir.Node, all_tables: dict[bool, RotaryTables]) -> int:
    rotation = rotation_of(node)
    if rotation is None:
        return 0
    heads_axis, tables = _heads_axis(rotation), all_tables[rotation.interleaved]
    flat = [
        tables.without_heads(tables.half(table) if rotation.doubled else table, heads_axis)
        for table in (rotation.cos, rotation.sin)
    ]
    _replace(with_rest(rotation), flat, heads_axis, static_dim(rotation.x, -1))
    return 1


def _heads_axis(rotation: Rotation) -> int:
    """1 or 2: the axis of x along which the tables have one entry."""
    x, found = rotation.x, set()
    if x.shape is None or len(x.shape) != 4:
        raise TableMiss(f"{x.name!r} has shape {x.shape}, expected 4 dimensions")
    for table in (rotation.cos, rotation.sin):
        if table.shape is None or not 2 <= len(table.shape) <= 4:
            raise TableMiss(
                f"the table {table.name!r} has shape {table.shape}, expected 2 to 4 dimensions"
            )
        dims = [1] * (4 - len(table.shape)) + list(table.shape)
        if 1 not in dims[1:3]:
            raise TableMiss(f"the table {table.name!r} {table.shape} differs between heads")
        found.add(1 if dims[1] == 1 else 2)
        if dims[1:3] == [1, 1] and x.shape[2] != 1:
            raise TableMiss(f"the table {table.name!r} {table.shape} is one for all positions")
    if len(found) != 1:
        raise TableMiss("cos and sin broadcast along different axes")
    return found.pop()


def _replace(
    rotation: Rotation, tables: list[ir.Value], heads_axis: int, rotated: int | None
) -> None:
    last = rotation.output.producer()
    assert last is not None
    tape = ir.tape.Tape()
    scale, x = _scale(rotation.x)
    width = static_dim(x, -1)
    if heads_axis == 2:
        x = _swapped(tape, x)
    attributes = {"interleaved": int(rotation.interleaved)}
    if rotated is not None and rotated != width:
        attributes["rotary_embedding_dim"] = rotated
    heads = static_dim(x, 1)
    if heads is not None:
        attributes["num_heads"] = heads
    new = tape.op("RotaryEmbedding", [x, *tables], attributes)
    new.type, new.shape = x.type, x.shape
    if scale is not None:
        new = _scaled(tape, scale, new)
    output = rotation.output
    if heads_axis == 2:
        swap = sole_consumer(output, "Transpose")
        if swap is not None and permutation_of(swap) == _SWAP:
            output, last = swap.outputs[0], swap
        else:
            new = _swapped(tape, new)
    insert_before(last, tape.nodes)
    replace_value(output, new)
    remove_dead(last)


def _scale(x: ir.Value) -> tuple[ir.Node | None, ir.Value]:
    """The scaling of x by a constant, which a rotation does not mind, and what it scales."""
    node = producer(x, "Mul", "Div")
    if node is None:
        return None, x
    left, right = node.inputs[0], node.inputs[1]
    if left is not None and scalar_of(right) is not None:
        return node, left
    if node.op_type == "Mul" and right is not None and scalar_of(left) is not None:
        return node, right
    return None, x


def _scaled(tape: ir.tape.Tape, scale: ir.Node, value: ir.Value) -> ir.Value:
    """The same scaling of another value: the attention behind it takes it for its own."""
    inputs = [value if scalar_of(item) is None else item for item in scale.inputs]
    scaled = tape.op(scale.op_type, inputs)
    scaled.type, scaled.shape = value.type, value.shape
    return scaled


def _swapped(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
    swapped = tape.op("Transpose", [value], {"perm": list(_SWAP)})
    assert value.shape is not None
    batch, second, third, last = value.shape
    swapped.type, swapped.shape = value.type, ir.Shape([batch, third, second, last])
    return swapped
