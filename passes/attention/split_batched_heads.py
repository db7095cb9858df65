"""Bring attention that was computed with heads folded into the batch back to four dimensions.

    Reshape(f(Reshape(x, [b * h, s, d])), [b, h, ...])  ->  f'(x)

where f is made of MatMul, element-wise operators, the softmax over the last axis and the swap of
the last two, all of which treat the leading axis as a batch. Exporters write the transposition of
K so (three dimensions are enough for it), and several models compute their whole attention as a
batched product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import (
    initializer,
    insert_before,
    int_attribute,
    permutation_of,
    producer,
    remove_dead,
    replace_value,
)

_BATCHED = (
    "Add", "Cast", "Div", "IsNaN", "MatMul", "Max", "Mul", "Softmax", "Sub", "Tanh", "Transpose",
    "Where",
)  # fmt: skip
_DEPTH = 16

Dims = tuple[int | ir.SymbolicDim, ...]


@dataclass(frozen=True)
class SplitBatchedHeads(Pass):
    """Move the split of a folded batch up to where the heads were folded in."""

    name = "split-batched-heads"
    min_opset = 15  # Shape with start and end

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites = 0
        for node in tuple(model.graph):
            if node.graph is None or not _splits_batch(node):
                continue
            folded = node.inputs[0]
            assert folded is not None
            if not _reaches_fold(folded, _heads(node.outputs[0]), _DEPTH):
                continue
            rewriting = _Rewriting(node)
            new = rewriting.split(folded)
            insert_before(node, rewriting.tape.nodes)
            replace_value(node.outputs[0], new)
            remove_dead(node)
            rewriting.hand_on_names()
            rewrites += 1
        return result(model, rewrites)


def _dims(value: ir.Value | None) -> Dims | None:
    """The dims, or None when one is unknown."""
    if value is None or value.shape is None:
        return None
    dims = tuple(value.shape)
    return None if ir.SymbolicDim(None) in dims else dims


def _heads(split: ir.Value) -> Dims:
    return (_dims(split) or ())[:2]


def _splits_batch(node: ir.Node) -> bool:
    """Whether it is ``Reshape([x, s, t]) -> [b, h, s, t]`` of something computed in a batch."""
    if node.op_type != "Reshape" or node.domain:
        return False
    folded, split = _dims(node.inputs[0]), _dims(node.outputs[0])
    if folded is None or split is None or (len(folded), len(split)) != (3, 4):
        return False
    if folded[1:] != split[2:] or not any(isinstance(dim, int) for dim in split[:2]):
        return False
    return producer(node.inputs[0], *_BATCHED) is not None


def _folded_source(value: ir.Value, heads: Dims) -> ir.Value | None:
    """The four-dimensional tensor that a Reshape folded into this value."""
    fold = producer(value, "Reshape")
    source = None if fold is None else fold.inputs[0]
    dims, folded = _dims(source), _dims(value)
    if dims is None or folded is None or (len(dims), len(folded)) != (4, 3):
        return None
    return source if dims[:2] == heads and dims[2:] == folded[1:] else None


def _batched(value: ir.Value) -> ir.Node | None:
    """The producer of [x, s, t] when it treats the leading axis as a batch."""
    node, dims = producer(value, *_BATCHED), _dims(value)
    if node is None or dims is None or len(dims) != 3 or None in map(_dims, node.inputs):
        return None
    if node.op_type == "Transpose" and permutation_of(node) != (0, 2, 1):
        return None
    return None if node.op_type == "Softmax" and _axis(node) != 2 else node


def _axis(node: ir.Node) -> int:
    return int_attribute(node, "axis", -1) % 3


def _reaches_fold(value: ir.Value, heads: Dims, depth: int) -> bool:
    """Whether the rewrite pays: a tensor below was folded with the same batch and heads."""
    if not depth:
        return False
    if _folded_source(value, heads) is not None:
        return True
    node = _batched(value)
    operands = () if node is None else node.inputs
    return any(
        operand is not None and _reaches_fold(operand, heads, depth - 1) for operand in operands
    )


@dataclass
class _Rewriting:
    """The four-dimensional twin of a three-dimensional computation."""

    anchor: ir.Node
    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    done: dict[ir.Value, ir.Value] = field(default_factory=dict)
    twins: list[tuple[ir.Node, ir.Value]] = field(default_factory=list)

    def hand_on_names(self) -> None:
        """Name the twins of nodes that are gone; two nodes of one name are no valid graph."""
        for node, twin in self.twins:
            producing = twin.producer()
            if node.graph is None and producing is not None:
                producing.name = node.name

    def split(self, value: ir.Value) -> ir.Value:
        """The value with [batch, heads] in place of the folded axis."""
        if value not in self.done:
            self.done[value] = self._split(value)
        return self.done[value]

    def _split(self, value: ir.Value) -> ir.Value:
        heads = _heads(self.anchor.outputs[0])
        source = _folded_source(value, heads)
        if source is not None:
            return source
        node = _batched(value)
        if node is None or not _reaches_fold(value, heads, _DEPTH):
            return self._reshaped(value)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if node.op_type == "Transpose":
            attributes = {"perm": [0, 1, 3, 2]}
        elif node.op_type == "Softmax":
            attributes = {"axis": -1}
        twin = self.tape.op(node.op_type, [self._operand(v) for v in node.inputs], attributes)
        self.twins.append((node, twin))
        return self._typed(twin, value, heads)

    def _operand(self, value: ir.Value | None) -> ir.Value:
        dims = _dims(value)
        assert value is not None
        assert dims is not None
        return value if len(dims) < 3 else self.split(value)

    def _reshaped(self, value: ir.Value) -> ir.Value:
        """An operand that was never folded: split it here."""
        graph, dims = self.anchor.graph, _dims(value)
        assert graph is not None
        assert dims is not None
        if dims[0] == 1:  # broadcast over batch and heads alike
            axes = initializer(graph, "heads_axis", np.zeros(1, np.int64))
            return self._typed(self.tape.op("Unsqueeze", [value, axes]), value, (1, 1))
        batch, count = heads = _heads(self.anchor.outputs[0])
        lead = [-1, count] if isinstance(count, int) else [batch, -1]
        front = initializer(graph, "split_heads", np.array(lead, np.int64))
        back = self.tape.op("Shape", [value], {"start": 1})
        target = self.tape.op("Concat", [front, back], {"axis": 0})
        return self._typed(self.tape.op("Reshape", [value, target]), value, heads)

    def _typed(self, twin: ir.Value, value: ir.Value, heads: Dims) -> ir.Value:
        twin.type = value.type
        twin.shape = ir.Shape([*heads, *(_dims(value) or ())[1:]])
        return twin
