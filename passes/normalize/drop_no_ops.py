"""Remove nodes that give back what they read, and merge views of views.

Reshape(x, <the shape x has>), Expand(x, ..), Slice(x, 0, <all>), Cast(x, <its dtype>),
Transpose(x, [0, 1, 2]), Mul(x, 1), Add(x, 0), Concat(x), Dropout(x)      ->  x
Squeeze(Unsqueeze(x)), Reshape(Reshape(x)) with the shape of x            ->  x
Unsqueeze(Unsqueeze(x, a), b)                                             ->  Unsqueeze(x, c)
Transpose(Transpose(x, p), q)                                             ->  Transpose(x, r)
Reshape(Transpose(Reshape(x, [-1, s, d]), [0, 2, 1]), [b, h, d, s])
->  Transpose(x, [0, 1, 3, 2])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import (
    initializer,
    insert_before,
    permutation_of,
    producer,
    remove_dead,
    replace_value,
    scalar_of,
)
from ..shapes.analysis import analyse
from ..shapes.facts import Facts, Shape

_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Operators that keep the elements and their order, so that equal shapes are equal tensors."""

_FARTHEST = 8
"""Views to look back through, so that a chain of views costs linear time."""


@dataclass(frozen=True)
class DropNoOps(Pass):
    """Drop what does nothing; a node that makes a graph output stays, for the sake of its name."""

    name = "drop-no-ops"
    min_opset = 13  # Unsqueeze with axes as an input

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        facts, rewrites = analyse(model), 0
        for node in tuple(model.graph):
            again: ir.Node | None = node
            while again is not None and _is_open(again):
                same = _same_as(again, facts)
                if same is not None:
                    replace_value(again.outputs[0], same)
                    remove_dead(again)
                    rewrites += 1
                    break
                merge = _MERGES.get(again.op_type)
                again = None if merge is None else merge(again, facts)
                rewrites += again is not None
        return result(model, rewrites)


def _is_open(node: ir.Node) -> bool:
    """Whether a node is still there and may go."""
    if node.graph is None or node.domain or not node.inputs or node.inputs[0] is None:
        return False
    return not node.outputs[0].is_graph_output()


def _same_as(node: ir.Node, facts: Facts) -> ir.Value | None:
    """The value that the first output equals, if there is one."""
    rule = _RULES.get(node.op_type)
    data = node.inputs[0]
    if rule is None or data is None or any(value.uses() for value in node.outputs[1:]):
        return None
    return rule(node, data, facts)


def _view(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    """The farthest value before a chain of views that has the shape after it."""
    found, value = None, data
    for _ in range(_FARTHEST):
        if _equal_shapes(facts, node.outputs[0], value):
            found = value
        before = producer(value, *_VIEWS)
        if before is None or before.inputs[0] is None:
            break
        value = before.inputs[0]
    return found


def _equal_shapes(facts: Facts, left: ir.Value, right: ir.Value) -> bool:
    shape = facts[left].shape
    return shape is not None and None not in shape and shape == facts[right].shape


def _expand(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    return data if _equal_shapes(facts, node.outputs[0], data) else None


def _slice(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    steps = facts[node.inputs[4]].ints() if len(node.inputs) > 4 else ()
    forward = steps is not None and all(step == 1 for step in steps)
    return _expand(node, data, facts) if forward else None


def _cast(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    dtype = facts[data].dtype
    return data if dtype is not None and dtype == facts[node.outputs[0]].dtype else None


def _transpose(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    del facts
    order = permutation_of(node)
    return data if order and order == tuple(range(len(order))) else None


def _concat(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    del facts
    return data if len(node.inputs) == 1 else None


def _dropout(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
    """Dropout does nothing unless it is told to train."""
    del facts
    training = node.inputs[2] if len(node.inputs) > 2 else None
    return data if training is None or scalar_of(training) == 0 else None


def _neutral(number: float, *, both: bool) -> Callable[..., ir.Value | None]:
    """An operand that changes nothing, on the right or (when the operator commutes) on the left."""

    def same(node: ir.Node, data: ir.Value, facts: Facts) -> ir.Value | None:
        other = node.inputs[1]
        if other is None:
            return None
        pairs = ((data, other), (other, data)) if both else ((data, other),)
        for kept, constant in pairs:
            if scalar_of(constant) == number and _equal_shapes(facts, node.outputs[0], kept):
                return kept
        return None

    return same


def _merge_unsqueezes(node: ir.Node, facts: Facts) -> ir.Node | None:
    inner = producer(node.inputs[0], "Unsqueeze")
    axes = [facts[each.inputs[1]].ints() for each in (inner, node) if each is not None]
    shape = facts[node.outputs[0]].shape
    if inner is None or shape is None or any(found is None for found in axes):
        return None
    first, second = (found for found in axes if found is not None)
    rank = len(shape)
    outer = {axis % rank for axis in second}
    rest = [axis for axis in range(rank) if axis not in outer]
    merged = sorted(outer | {rest[axis % len(rest)] for axis in first})
    assert node.graph is not None
    name = f"{node.outputs[0].name}.axes"
    constant = initializer(_main(node), name, np.array(merged, np.int64))
    node.replace_input_with(0, inner.inputs[0])
    node.replace_input_with(1, constant)
    remove_dead(inner)
    return node


def _merge_transposes(node: ir.Node, facts: Facts) -> ir.Node | None:
    del facts
    inner = producer(node.inputs[0], "Transpose")
    outer_order = permutation_of(node)
    inner_order = () if inner is None else permutation_of(inner)
    if inner is None or not outer_order or len(inner_order) != len(outer_order):
        return None
    order = [inner_order[axis] for axis in outer_order]
    node.attributes["perm"] = ir.AttrInt64s("perm", order)
    node.replace_input_with(0, inner.inputs[0])
    remove_dead(inner)
    return node


def _merge_reshapes(node: ir.Node, facts: Facts) -> ir.Node | None:
    """Transposing the last axes behind merged leading ones needs no merging."""
    swap = producer(node.inputs[0], "Transpose")
    merge = None if swap is None else producer(swap.inputs[0], "Reshape")
    if swap is None or merge is None or merge.inputs[0] is None:
        return None
    data = merge.inputs[0]
    order = _order_without_merging(
        facts[data].shape,
        facts[merge.outputs[0]].shape,
        permutation_of(swap),
        facts[node.outputs[0]].shape,
    )
    if order is None:
        return None
    tape = ir.tape.Tape()
    new = tape.op("Transpose", [data], {"perm": list(order)})
    facts[new] = facts[node.outputs[0]]
    insert_before(node, tape.nodes)
    replace_value(node.outputs[0], new)
    remove_dead(node)
    return new.producer()


def _order_without_merging(
    source: Shape | None, merged: Shape | None, order: tuple[int, ...], wanted: Shape | None
) -> tuple[int, ...] | None:
    if source is None or merged is None or wanted is None or order[:1] != (0,):
        return None
    kept = len(merged) - 1
    lead = len(source) - kept
    if lead < 1 or source[lead:] != merged[1:] or None in (*source, *merged):
        return None
    full = (*range(lead), *(axis - 1 + lead for axis in order[1:]))
    return full if wanted == tuple(source[axis] for axis in full) else None


def _main(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


_RULES: dict[str, Callable[[ir.Node, ir.Value, Facts], ir.Value | None]] = {
    **dict.fromkeys(_VIEWS, _view),
    "Expand": _expand,
    "Tile": _expand,
    "Slice": _slice,
    "Cast": _cast,
    "Transpose": _transpose,
    "Concat": _concat,
    "Dropout": _dropout,
    "Mul": _neutral(1.0, both=True),
    "Div": _neutral(1.0, both=False),
    "Add": _neutral(0.0, both=True),
    "Sub": _neutral(0.0, both=False),
}

_MERGES: dict[str, Callable[[ir.Node, Facts], ir.Node | None]] = {
    "Unsqueeze": _merge_unsqueezes,
    "Transpose": _merge_transposes,
    "Reshape": _merge_reshapes,
}
