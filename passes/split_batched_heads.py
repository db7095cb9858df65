"""Bring attention that was computed with heads folded into the batch back to four dimensions.

    Reshape(f(Reshape(x, [b * h, s, d])), [b, h, ...])  ->  f'(x)

where f is made of MatMul, element-wise operators and the swap of the last two axes, all of which
treat the leading axis as a batch. Exporters write the transposition of K so (three dimensions are
enough for it), and several models compute their whole attention as a batched product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from .base import Pass, PassResult, result
from .constants import initializer, insert_before, ints_attribute, producer, scalar_of
from .rewrite import remove_dead

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_DEPTH = 12


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
            node.outputs[0].replace_all_uses_with(new, replace_graph_outputs=False)
            remove_dead(node)
            rewrites += 1
        return result(model, rewrites)


def _dims(value: ir.Value | None) -> tuple[int | ir.SymbolicDim, ...]:
    """The dims, or none when one is unknown."""
    if value is None or value.shape is None:
        return ()
    dims = tuple(value.shape)
    known = all(isinstance(dim, int) or dim.value is not None for dim in dims)
    return dims if known else ()


def _heads(split: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return _dims(split)[:2]


def _splits_batch(node: ir.Node) -> bool:
    """Whether it is ``Reshape([x, s, t]) -> [b, h, s, t]`` of a product, sum or transposition."""
    if node.op_type != "Reshape" or node.domain or node.outputs[0].is_graph_output():
        return False
    folded, split = _dims(node.inputs[0]), _dims(node.outputs[0])
    if len(folded) != 3 or len(split) != 4 or folded[1:] != split[2:]:
        return False
    return producer(node.inputs[0], "MatMul", "Transpose", *_ELEMENTWISE) is not None


def _folded_source(
    value: ir.Value, heads: tuple[int | ir.SymbolicDim, ...]
) -> ir.Value | None:
    """The four-dimensional tensor that a Reshape folded into this value."""
    fold = producer(value, "Reshape")
    source = None if fold is None else fold.inputs[0]
    dims = _dims(source)
    if len(dims) == 4 and dims[:2] == heads and dims[2:] == _dims(value)[1:]:
        return source
    return None


def _reaches_fold(
    value: ir.Value, heads: tuple[int | ir.SymbolicDim, ...], depth: int
) -> bool:
    """Whether the rewrite pays: a tensor below was folded with the same batch and heads."""
    if not depth:
        return False
    if _folded_source(value, heads) is not None:
        return True
    node = producer(value, "MatMul", "Transpose", *_ELEMENTWISE)
    if node is None or (node.op_type == "Transpose" and ints_attribute(node, "perm") != (0, 2, 1)):
        return False
    return any(
        operand is not None and _reaches_fold(operand, heads, depth - 1) for operand in node.inputs
    )


@dataclass
class _Rewriting:
    """The four-dimensional twin of a three-dimensional computation."""

    anchor: ir.Node
    tape: ir.tape.Tape = field(default_factory=ir.tape.Tape)
    done: dict[ir.Value, ir.Value] = field(default_factory=dict)

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
        node = producer(value, "MatMul", "Transpose", *_ELEMENTWISE)
        if node is None or not _reaches_fold(value, heads, _DEPTH):
            return self._reshaped(value)
        if node.op_type == "Transpose":
            assert node.inputs[0] is not None
            twin = self.tape.op(
                "Transpose", [self.split(node.inputs[0])], {"perm": [0, 1, 3, 2]}, name=node.name
            )
        else:
            operands = [self._operand(operand) for operand in node.inputs]
            twin = self.tape.op(node.op_type, operands, name=node.name)
        twin.type = value.type
        twin.shape = ir.Shape([*heads, *_dims(value)[1:]])
        return twin

    def _operand(self, value: ir.Value | None) -> ir.Value:
        assert value is not None
        if scalar_of(value) is not None or len(_dims(value)) < 3:
            return value
        return self.split(value)

    def _reshaped(self, value: ir.Value) -> ir.Value:
        """An operand that was never folded: split it here."""
        graph = self.anchor.graph
        assert graph is not None
        heads, dims = _heads(self.anchor.outputs[0]), _dims(value)
        if dims and dims[0] == 1:  # broadcast over batch and heads alike
            axes = initializer(graph, "heads_axis", np.zeros(1, np.int64))
            twin = self.tape.op("Unsqueeze", [value, axes])
            heads = (1, 1)
        else:
            count = heads[1]
            lead = [-1, count] if isinstance(count, int) else [0, -1]
            front = initializer(graph, "split_heads", np.array(lead, np.int64))
            back = self.tape.op("Shape", [value], {"start": 1})
            target = self.tape.op("Concat", [front, back], {"axis": 0})
            twin = self.tape.op("Reshape", [value, target])
        twin.type = value.type
        twin.shape = ir.Shape([*heads, *(dims[1:] or (None, None))])
        return twin
