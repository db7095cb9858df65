"""The inputs of a packed graph and what is derived from them once.

    input_ids, segment_ids, position_ids [, token_type_ids]   int64 [rows, length]
    slots                                                     int64 [slots], 1, 2, ...

A text is a run of tokens of equal segment, numbered from 1 in every row, its positions counted from
0. Padding is segment 0. ``slots`` lists the segments that are pooled: output ``row * slots + slot``
is that of segment ``slot + 1`` of the row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnx_ir.tape

from ...errors import PassError
from ..constants import initializer

IDS, PADDING, TYPES = "input_ids", "attention_mask", "token_type_ids"
SEGMENTS, POSITIONS, SLOTS = "segment_ids", "position_ids", "slots"
ROWS, LENGTH, TEXTS = "rows", "length", "texts"


@dataclass
class PackedInputs:
    """The inputs of a graph that is being packed, and the nodes that read nothing else.

    Attributes:
        graph: gets the inputs and the constants.
        segments: int64 [rows, length].
        positions: int64 [rows, length].
        slots: int64 [slots].
        tape: the nodes recorded so far; they go in front of the graph.
    """

    graph: ir.Graph
    segments: ir.Value
    positions: ir.Value
    slots: ir.Value
    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    _made: dict[str, ir.Value] = field(default_factory=dict)

    def constant(self, name: str, content: object, dtype: type = np.int64) -> ir.Value:
        """A new constant."""
        return initializer(self.graph, f"packed.{name}", np.array(content, dtype))

    def column(self, value: ir.Value) -> ir.Value:
        """[rows, length] as [rows, 1, length, 1]: one a query."""
        return self._unsqueezed(value, [1, 3])

    def row(self, value: ir.Value) -> ir.Value:
        """[rows, length] as [rows, 1, 1, length]: one a key."""
        return self._unsqueezed(value, [1, 2])

    def _unsqueezed(self, value: ir.Value, axes: list[int]) -> ir.Value:
        key = f"{value.name}{axes}"
        if key not in self._made:
            self._made[key] = self.tape.op("Unsqueeze", [value, self.constant("axes", axes)])
        return self._made[key]

    def padding(self) -> ir.Value:
        """int64 [rows, length], 1 where a token is."""
        if PADDING not in self._made:
            token = self.tape.op("Greater", [self.segments, self.constant("padding", 0)])
            real = self.tape.op("Cast", [token], {"to": ir.DataType.INT64})
            real.type, real.shape = self.segments.type, self.segments.shape
            self._made[PADDING] = real
        return self._made[PADDING]

    def members(self, dtype: ir.DataType, *, first: bool) -> ir.Value:
        """[rows, slots, length]: 1 where a token is of the slot's text, or is its first."""
        key = f"members {dtype} {first}"
        if key not in self._made:
            segments = self.tape.op("Unsqueeze", [self.segments, self.constant("axes", [1])])
            slots = self.tape.op("Unsqueeze", [self.slots, self.constant("axes", [0, 2])])
            member = self.tape.op("Equal", [segments, slots])
            if first:
                start = self.tape.op("Equal", [self.positions, self.constant("first", 0)])
                start = self.tape.op("Unsqueeze", [start, self.constant("axes", [1])])
                member = self.tape.op("And", [member, start])
            self._made[key] = self.tape.op("Cast", [member], {"to": dtype})
        return self._made[key]

    def starts(self) -> ir.Value:
        """int64 [rows, length]: the column at which the text of each token begins."""
        if "starts" not in self._made:
            size = self.tape.op("Shape", [self.segments], {"start": 1, "end": 2})
            length = self.tape.op("Squeeze", [size, self.constant("axes", [0])])
            zero, one = self.constant("zero", 0), self.constant("one", 1)
            columns = self.tape.op("Range", [zero, length, one])
            self._made["starts"] = self.tape.op("Sub", [columns, self.positions])
        return self._made["starts"]


def take_inputs(graph: ir.Graph) -> PackedInputs:
    """Give a graph the packed inputs; the padding mask is computed from then on.

    Raises:
        PassError: when its inputs are not those of a text encoder.
    """
    by_name = {value.name: value for value in graph.inputs}
    known = {IDS, PADDING, TYPES}
    if not {IDS, PADDING} <= by_name.keys() <= known:
        raise PassError(
            f"expected the inputs {IDS}, {PADDING} and perhaps {TYPES}, got "
            f"{', '.join(map(str, by_name))}; only text encoders can be packed"
        )
    for value in graph.inputs:
        is_free = value.shape is not None and len(value.shape) == 2
        if not is_free or any(isinstance(dim, int) for dim in value.shape or ()):
            raise PassError(
                f"input {value.name}: expected two dynamic axes, got {value.shape}; rows are "
                "packed to a length of their own"
            )
    _rename_sizes(graph, by_name)
    segments, positions = (_input(name, ROWS, LENGTH) for name in (SEGMENTS, POSITIONS))
    inputs = PackedInputs(graph, segments, positions, _input(SLOTS, SLOTS))
    by_name[PADDING].replace_all_uses_with(inputs.padding())
    graph.inputs.remove(by_name[PADDING])
    graph.inputs.extend([segments, positions, inputs.slots])
    return inputs


def _input(name: str, *dims: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(dims))


def _rename_sizes(graph: ir.Graph, inputs: dict[str | None, ir.Value]) -> None:
    """Batch and sequence become rows and length; what was inferred from them is forgotten."""
    for value in inputs.values():
        value.shape = ir.Shape([ROWS, LENGTH])
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                dims = [dim if isinstance(dim, int) else None for dim in value.shape]
                value.shape = ir.Shape(dims)
