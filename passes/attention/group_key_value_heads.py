"""Give Attention the key/value heads the model has, not copies of them.

    Attention(Q, repeat(K, g), repeat(V, g))  ->  Attention(Q, K, V)

Grouped-query models share a key/value head among g query heads. Exporters repeat the heads to
the number of the queries' (Unsqueeze, Expand, Reshape), which costs g times the memory of the
cache at every step; Attention shares them itself: query head i reads key/value head i // g. Heads
are repeated before or behind their transposition, and before they are rotated.

Sources: https://arxiv.org/abs/2305.13245, https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import (
    initializer,
    insert_before,
    permutation_of,
    producer,
    remove_dead,
    static_dim,
)
from ..shapes import algebra


@dataclass(frozen=True)
class GroupKeyValueHeads(Pass):
    """Let the 4-D form of Attention read key/value heads before they are repeated."""

    name = "group-key-value-heads"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Attention" or node.domain or "q_num_heads" in node.attributes:
                continue
            reason = _group(node)
            if reason is None:
                rewrites += 1
            elif reason:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _group(node: ir.Node) -> str | None:
    """Rewrite one node; the reason when it cannot be, empty when nothing is repeated."""
    key, value = (_repetition(tensor, 1) for tensor in node.inputs[1:3])
    if key is None and value is None:
        return ""
    if key is None or value is None:
        return f"the heads of {'V' if key is None else 'K'} alone are repeated"
    assert node.inputs[0] is not None
    heads = static_dim(node.inputs[0], 1)
    if key.heads != value.heads or heads is None or heads % key.heads:
        return f"Q has {heads} heads, K {key.heads} and V {value.heads}"
    assert node.graph is not None
    tape = ir.tape.Tape()
    repeated = [tensor.producer() for tensor in node.inputs[1:3] if tensor is not None]
    for place, found in ((1, key), (2, value)):
        node.replace_input_with(place, _unrepeated(found, node.graph, tape))
    insert_before(node, tape.nodes)
    remove_dead(*(producing for producing in repeated if producing is not None))
    return None


@dataclass(frozen=True, kw_only=True)
class _Repetition:
    """Heads before they were repeated.

    Attributes:
        lifted: [batch, heads, 1, keys, size] with the first four axes in any order, but a 1
            behind the heads.
        axis: of the heads.
        heads: their number.
        steps: what follows the repetition, last first.
    """

    lifted: ir.Value
    axis: int
    heads: int
    steps: tuple[ir.Node, ...] = ()


def _repetition(value: ir.Value | None, axis: int) -> _Repetition | None:
    """How the heads on an axis of a tensor of four dimensions were repeated, if they were."""
    node = producer(value, "Reshape", "Transpose", "RotaryEmbedding")
    if node is None or value is None or value.shape is None or len(value.shape) != 4:
        return None
    if node.op_type == "Reshape":
        return _repeated(node, axis)
    if node.op_type == "RotaryEmbedding" and axis != 1:
        return None  # it takes another axis for the heads
    if node.op_type == "Transpose":
        order = permutation_of(node)
        if len(order) != 4:
            return None
        axis = order[axis]
    found = _repetition(node.inputs[0], axis)
    return None if found is None else replace(found, steps=(node, *found.steps))


def _repeated(merge: ir.Node, axis: int) -> _Repetition | None:
    """[.., k, 1, ..] -> [.., k, g, ..] -> [.., k * g, ..] with all other axes as they were."""
    expand = producer(merge.inputs[0], "Expand", "Tile")
    lifted = None if expand is None else expand.inputs[0]
    if expand is None or lifted is None or lifted.shape is None or len(lifted.shape) != 5:
        return None
    merged, repeated = merge.outputs[0], expand.outputs[0]
    heads, groups = static_dim(lifted, axis), static_dim(repeated, axis + 1)
    if heads is None or groups is None or static_dim(lifted, axis + 1) != 1:
        return None
    if (static_dim(repeated, axis), static_dim(merged, axis)) != (heads, heads * groups):
        return None
    assert merged.shape is not None
    kept = [dim for place, dim in enumerate(merged.shape) if place != axis]
    shown, spread = _others(lifted, axis), _others(repeated, axis)
    if spread != kept or ir.SymbolicDim(None) in kept:
        return None
    if shown != kept and (expand.op_type == "Tile" or not all(map(_stays, shown, kept))):
        return None
    return _Repetition(lifted=lifted, axis=axis, heads=heads)


def _others(value: ir.Value, axis: int) -> list[int | ir.SymbolicDim]:
    """Sizes of all axes but an axis and the next."""
    assert value.shape is not None
    return [dim for place, dim in enumerate(value.shape) if place not in (axis, axis + 1)]


def _stays(before: int | ir.SymbolicDim, after: int | ir.SymbolicDim) -> bool:
    """Whether a size is not expanded: only 1 is, whatever an exporter calls the result."""
    if before == after:
        return True
    size = before if isinstance(before, int) else before.value
    return size is not None and algebra.lowest(algebra.normal(str(size))) > 1


def _unrepeated(found: _Repetition, graph: ir.Graph, tape: ir.tape.Tape) -> ir.Value:
    """The same computation on the heads before they were repeated."""
    value = _lowered(found, graph, tape)
    for step in reversed(found.steps):
        attributes = {name: attribute.value for name, attribute in step.attributes.items()}
        old, value = value, tape.op(step.op_type, [value, *step.inputs[1:]], attributes)
        value.type = old.type
        assert old.shape is not None
        order = permutation_of(step) if step.op_type == "Transpose" else range(4)
        value.shape = ir.Shape([old.shape[axis] for axis in order])
    return value


def _lowered(found: _Repetition, graph: ir.Graph, tape: ir.tape.Tape) -> ir.Value:
    """The tensor of four dimensions under the lifted one."""
    lifted = found.lifted
    assert lifted.shape is not None
    dims = [dim for place, dim in enumerate(lifted.shape) if place != found.axis + 1]
    lift = producer(lifted, "Unsqueeze", "Reshape")
    source = None if lift is None else lift.inputs[0]
    if source is not None and source.shape is not None and list(source.shape) == dims:
        return source
    axes = initializer(graph, "group_axis", np.array([found.axis + 1], np.int64))
    lowered = tape.op("Squeeze", [lifted, axes])
    lowered.type, lowered.shape = lifted.type, ir.Shape(dims)
    return lowered
