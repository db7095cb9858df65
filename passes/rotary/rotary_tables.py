"""Cosine and sine tables: from those rotate-half reads to those RotaryEmbedding reads.

Rotate-half multiplies by tables as wide as a head that hold every angle twice: in two equal halves,
or side by side where neighbours are rotated. RotaryEmbedding reads each once, [batch, sequence,
width / 2]. That half is computed by the same operators from the angles before they were doubled,
once for all layers and for queries and keys alike.

Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..casts import uncast
from ..constants import (
    array_of,
    initializer,
    int_attribute,
    ints_of,
    permutation_of,
    producer,
    scalar_of,
    static_dim,
)

_UNARY = frozenset({"Cos", "Sin", "Cast", "Identity", "Neg"})
_BINARY = frozenset({"Mul", "Add", "Sub", "Div"})


class TableMiss(Exception):  # noqa: N818  (control flow between a pass and this file)
    """Why a table is none of a rotary embedding."""


@dataclass(frozen=True)
class RotaryTables:
    """Half tables of one graph, each computed once.

    Attributes:
        graph: the graph that gets the new nodes.
        interleaved: whether equal columns stand side by side, and not half a width apart.
    """

    graph: ir.Graph
    interleaved: bool = False
    _halves: dict[ir.Value, ir.Value] = field(default_factory=dict, repr=False)
    _flat: dict[tuple[ir.Value, int], ir.Value] = field(default_factory=dict, repr=False)

    def half(self, table: ir.Value) -> ir.Value:
        """The columns of a table that holds each twice by construction, once.

        Raises:
            TableMiss: when that cannot be shown from the operators that compute the table.
        """
        table = uncast(table)
        if table not in self._halves:
            self._halves[table] = self._halved(table)
        return self._halves[table]

    def without_heads(self, table: ir.Value, heads_axis: int) -> ir.Value:
        """[batch, sequence, width] of a table that broadcasts over four axes.

        Args:
            table: of rank 2 to 4, aligned with the last axes of what it multiplies.
            heads_axis: 1 or 2, the axis of four along which the table has one entry.
        """
        key = (table, heads_axis)
        if key not in self._flat:
            self._flat[key] = self._flattened(table, heads_axis)
        return self._flat[key]

    def _halved(self, table: ir.Value) -> ir.Value:
        array = array_of(table)
        if array is not None:
            return self._half_constant(table, array)
        node = table.producer()
        if node is None or node.domain:
            raise TableMiss(f"the table {table.name!r} is not computed here")
        single = self._interleaved(node) if self.interleaved else _doubling(node)
        if single is not None:
            return single
        if node.op_type in _BINARY:
            return self._half_binary(node)
        keeps_last = node.op_type in _UNARY or _moves_other_axes(node)
        first = node.inputs[0]
        if first is None or not keeps_last:
            raise TableMiss(
                f"the table {table.name!r}, from {node.op_type} {node.name!r}, cannot be shown to "
                f"hold {self._meaning}"
            )
        return self._again(node, [self.half(first), *node.inputs[1:]])

    def _interleaved(self, node: ir.Node) -> ir.Value | None:
        """The columns f of ``Reshape(u, [..., 2 n])`` for u = f [..., n, 1] doubled along 1."""
        unsqueeze = _interleaving(node)
        first = None if unsqueeze is None else unsqueeze.inputs[0]
        if unsqueeze is None or first is None:
            return None
        stretched = unsqueeze.outputs[0]
        assert stretched.shape is not None
        rank = len(stretched.shape)
        others = sorted(axis % rank for axis in ints_of(unsqueeze.inputs[1]) or ())[:-1]
        if not others:
            return first
        axes = initializer(self.graph, "rotary_axis", np.array(others, np.int64))
        new = self._after(unsqueeze, "Unsqueeze", [first, axes], ())
        new.type, new.shape = first.type, ir.Shape(stretched.shape[:-1])
        return new

    def _half_constant(self, table: ir.Value, array: Array) -> ir.Value:
        width = array.shape[-1] if array.ndim else 0
        single, other = (
            (array[..., ::2], array[..., 1::2])
            if self.interleaved
            else (array[..., : width // 2], array[..., width // 2 :])
        )
        if width % 2 or not np.array_equal(single, other):
            raise TableMiss(f"the table {table.name!r} does not hold {self._meaning}")
        return initializer(self.graph, f"{table.name}.half", single)

    @property
    def _meaning(self) -> str:
        return "equal neighbours" if self.interleaved else "equal halves"

    def _half_binary(self, node: ir.Node) -> ir.Value:
        if node.op_type == "Mul" and scalar_of(node.inputs[1]) == 1.0:  # no attention scaling
            assert node.inputs[0] is not None
            return self.half(node.inputs[0])
        operands = [value for value in node.inputs if value is not None]
        return self._again(node, [v if _is_narrow(v) else self.half(v) for v in operands])

    def _again(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        """The same operator on other inputs, right behind it."""
        old = node.outputs[0]
        new = self._after(node, node.op_type, inputs, tuple(node.attributes.values()))
        new.type = old.type
        if old.shape is not None:
            width = static_dim(old, -1)
            last = ir.SymbolicDim(None) if width is None else width // 2
            new.shape = ir.Shape([*old.shape[:-1], last])
        return new

    def _flattened(self, table: ir.Value, heads_axis: int) -> ir.Value:
        rank = len(table.shape or ())
        if rank == 4:
            return self._without_axis(table, heads_axis)
        if rank == 3 and heads_axis == 1:
            return table  # its one entry along the heads stands where the batch is wanted
        if rank == 3:
            table = self._without_axis(table, 1)
        return self._shaped(table, "Unsqueeze", 0)

    def _without_axis(self, table: ir.Value, axis: int) -> ir.Value:
        node = producer(table, "Unsqueeze")
        assert table.shape is not None
        if node is not None and node.inputs[0] is not None:
            axes = ints_of(node.inputs[1]) or ()
            if [item % len(table.shape) for item in axes] == [axis]:
                return node.inputs[0]
        return self._shaped(table, "Squeeze", axis)

    def _shaped(self, table: ir.Value, op_type: str, axis: int) -> ir.Value:
        dims = list(table.shape or ())
        dims[axis : axis + (op_type == "Squeeze")] = [] if op_type == "Squeeze" else [1]
        array = array_of(table)
        if array is not None:
            shaped = np.squeeze(array, axis) if op_type == "Squeeze" else array[None]
            return initializer(self.graph, f"{table.name}.flat", shaped)
        node = table.producer()
        if node is None:
            raise TableMiss(f"the table {table.name!r} is not computed here")
        axes = initializer(self.graph, "rotary_axis", np.array([axis], np.int64))
        new = self._after(node, op_type, [table, axes], ())
        new.type, new.shape = table.type, ir.Shape(dims)
        return new

    def _after(
        self,
        place: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr],
    ) -> ir.Value:
        node = ir.Node("", op_type, inputs, attributes, num_outputs=1)
        self.graph.insert_after(place, node)
        return node.outputs[0]


def _doubling(node: ir.Node) -> ir.Value | None:
    """The half f of ``Concat(f, f)`` or ``Tile(f, [1, ..., 2])`` along the last axis."""
    first, output = node.inputs[0], node.outputs[0]
    rank = None if output.shape is None else len(output.shape)
    if node.op_type == "Concat" and len(node.inputs) == 2 and node.inputs[1] is first:
        axis = int_attribute(node, "axis", 0)
        return first if axis == -1 or (rank is not None and axis == rank - 1) else None
    if node.op_type == "Tile":
        repeats = ints_of(node.inputs[1]) or ()
        return first if repeats[-1:] == (2,) and set(repeats[:-1]) <= {1} else None
    return None


def _interleaving(node: ir.Node) -> ir.Node | None:
    """The Unsqueeze to [..., n, 1] whose last axis is doubled and then merged by a Reshape."""
    twice = producer(node.inputs[0], "Expand", "Concat", "Tile") if is_flattening(node) else None
    if twice is None or twice.inputs[0] is None or twice.outputs[0].shape is None:
        return None
    if twice.op_type == "Concat" and [*twice.inputs] != [twice.inputs[0]] * 2:
        return None
    stretched = twice.inputs[0]
    unsqueeze = producer(stretched, "Unsqueeze")
    if unsqueeze is None or stretched.shape is None:
        return None
    last = len(stretched.shape) - 1
    grown = [*stretched.shape[:-1], 2] == list(twice.outputs[0].shape)
    axes = [axis % (last + 1) for axis in ints_of(unsqueeze.inputs[1]) or ()]
    return unsqueeze if grown and last in axes else None


def is_flattening(node: ir.Node) -> bool:
    """Whether a Reshape merges the last two axes and keeps the others."""
    data, output = node.inputs[0], node.outputs[0]
    if node.op_type != "Reshape" or data is None or data.shape is None or output.shape is None:
        return False
    columns, last = static_dim(data, -2), static_dim(data, -1)
    if columns is None or last is None or len(output.shape) != len(data.shape) - 1:
        return False
    return [*data.shape[:-2], columns * last] == list(output.shape)


def _is_narrow(value: ir.Value) -> bool:
    """Whether a value is the same for every column."""
    return scalar_of(value) is not None or static_dim(value, -1) == 1


def _moves_other_axes(node: ir.Node) -> bool:
    """Whether an operator leaves the last axis of its first input the last, and whole."""
    data, output = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None or output.shape is None:
        return False
    rank = len(data.shape)
    if node.op_type == "Transpose":
        return permutation_of(node)[-1:] == (rank - 1,)
    if node.op_type == "Gather":
        return rank > 1 and int_attribute(node, "axis", 0) % rank != rank - 1
    axes_input = {"Unsqueeze": 1, "Squeeze": 1, "Slice": 3}.get(node.op_type)
    if axes_input is None or len(node.inputs) <= axes_input:
        return False
    axes = ints_of(node.inputs[axes_input])
    size = len(output.shape) if node.op_type == "Unsqueeze" else rank
    return axes is not None and all(axis % size != size - 1 for axis in axes)
