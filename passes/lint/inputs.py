"""Inputs that nothing reads, that set shapes, or whose axes are not known to be equal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import onnx_ir as ir

from ..constants import int_attribute, producer
from .finding import Hit, Rule, Subject, name_of, operand

_SHAPE_SLOTS = {
    "Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "Tile": (1,),
    "TopK": (1,), "Slice": (1, 2, 4), "Pad": (1,), "OneHot": (1,), "Resize": (3,),
}  # fmt: skip
"""Operators and the inputs whose values set the size of the result."""
_ARITHMETIC = frozenset(
    {"Add", "Sub", "Mul", "Div", "Min", "Max", "Cast", "Identity", "Squeeze", "Unsqueeze",
     "Concat", "Gather", "Reshape"}
)  # fmt: skip
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Where", "And", "Or", "Equal")


def _unread(subject: Subject) -> Iterator[Hit]:
    for value in subject.inputs:
        if not value.uses() and not value.is_graph_output():
            yield (
                str(value.name),
                f"no node reads the input {value.name!r}: TensorRT keeps it in the engine without "
                "effect, and fuselage refuses to build such an engine; remove it from the graph",
            )


def _sets_shape(subject: Subject) -> Iterator[Hit]:
    found: dict[ir.Value, ir.Node] = {}
    for node in subject.of_type(*_SHAPE_SLOTS):
        for slot in _SHAPE_SLOTS[node.op_type]:
            for value in _sources(operand(node, slot)):
                found.setdefault(value, node)
    for value in subject.inputs:
        if value in found:
            yield (
                str(value.name),
                f"the value of the input {value.name!r} sets a shape at {name_of(found[value])}: "
                "its profile must hold values instead of sizes, and fuselage refuses it; derive "
                "the size from the shape of another input, or make it a constant",
            )


def _sources(value: ir.Value | None) -> Iterator[ir.Value]:
    """Inputs that a shape is computed from by arithmetic on values, not on sizes."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        maker = value.producer()
        if maker is None:
            yield value
        elif maker.op_type in _ARITHMETIC:
            waiting += maker.inputs[:1] if maker.op_type in ("Gather", "Reshape") else maker.inputs


def _unlinked(subject: Subject) -> Iterator[Hit]:
    seen: set[frozenset[str]] = set()
    for node in subject.nodes:
        for one, other in _equal_dims(node):
            pair = frozenset((one, other))
            if len(pair) < 2 or pair in seen or not pair <= subject.input_symbols:
                continue
            seen.add(pair)
            yield (
                name_of(node),
                f"{node.op_type} needs {one!r} and {other!r} to be equal, but the inputs name "
                "them differently: each gets a range of its own in the profile, and sizes that "
                "differ fail when the engine is built or run; give both axes one name",
            )


def _equal_dims(node: ir.Node) -> Iterator[tuple[str, str]]:
    """Pairs of symbols that the operator needs to be equal."""
    values = [value for value in node.inputs if value is not None]
    if node.op_type in _ELEMENTWISE:
        yield from _aligned([_symbols(value) for value in values])
    elif node.op_type == "MatMul" and len(values) == 2:
        left, right = map(_symbols, values)
        yield from _aligned([left[:-2], right[:-2]])
        if len(right) > 1:
            yield from _aligned([left[-1:], right[-2:-1]])
    elif node.op_type == "Concat":
        axis = int_attribute(node, "axis", 0)
        rows = [_symbols(value) for value in values]
        yield from _aligned([_without(row, axis) for row in rows])
    elif node.op_type == "Attention":
        yield from _attended(values)


def _attended(values: list[ir.Value]) -> Iterator[tuple[str, str]]:
    rows = [_symbols(value) for value in values[:3]]
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        return
    yield from _aligned([row[:1] for row in rows])
    yield from _aligned([row[-2:-1] for row in rows[1:]])
    pasts = [_past_length(value) for value in values[1:3]]
    if None not in pasts:
        yield str(pasts[0]), str(pasts[1])


def _past_length(value: ir.Value) -> str | None:
    """Symbol of the cache that new keys or values are appended to."""
    maker = producer(value, "Concat")
    past = None if maker is None else maker.inputs[0]
    if past is None or not past.is_graph_input():
        return None
    row = _symbols(past)
    return row[-2] if len(row) > 1 else None


def _symbols(value: ir.Value) -> list[str | None]:
    dims = () if value.shape is None else value.shape.dims
    return [None if isinstance(dim, int) else dim.value for dim in dims]


def _without(row: list[str | None], axis: int) -> list[str | None]:
    return [dim for index, dim in enumerate(row) if index not in (axis, axis + len(row))]


def _aligned(rows: list[list[str | None]]) -> Iterator[tuple[str, str]]:
    """Symbols at the same distance from the end, as broadcasting aligns them."""
    for back in range(1, max(map(len, rows), default=0) + 1):
        named = [row[-back] for row in rows if len(row) >= back]
        yield from pairwise([name for name in named if name is not None])


RULES = (
    Rule(
        name="unread-input",
        severity="error",
        title="an input that no node reads",
        check=_unread,
    ),
    Rule(
        name="shape-input",
        severity="error",
        title="an input whose value sets a shape",
        check=_sets_shape,
    ),
    Rule(
        name="unlinked-dims",
        severity="warning",
        title="axes that must be equal under different names",
        check=_unlinked,
    ),
)
