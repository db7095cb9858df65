"""Draws a graph as one square a node: rows are layers, colours are kinds of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .layers import Layer, Part, layer_of, parts_of
from .onnx_outline import Outline
from .operators import BY_KEY, KINDS, kind_of

_SIDE, _STEP, _ROW, _LEFT = 9.0, 11.0, 18.0, 92.0
WIDTH = 440.0
_PER_LINE = int((WIDTH - _LEFT) // _STEP)
_MOST_ROWS = 14


@dataclass(frozen=True)
class Row:
    """A line of squares: a name, and the kind of each node."""

    name: str
    kinds: tuple[str, ...]


def rows_of_outline(outline: Outline) -> list[Row]:
    """The rows of a graph, nodes in the order in which they run."""
    parts = parts_of(outline)
    rows = [Row(_name(part, parts), _kinds([n.operator for n in part.nodes])) for part in parts]
    return _fold(rows)


def rows_of_modules(modules: Mapping[str, Mapping[str, int]]) -> list[Row]:
    """The rows of a graph of which only the operators of each module are known."""
    outside: dict[str, int] = {}
    inside: dict[Layer, dict[str, int]] = {}
    for module, operators in modules.items():
        layer = layer_of(module)
        counts = outside if layer is None else inside.setdefault(layer, {})
        for operator, number in operators.items():
            counts[operator] = counts.get(operator, 0) + number
    rows = [Row("outside", _sorted_kinds(outside))] if outside else []
    rows += [
        Row(f"layer {layer.index}", _sorted_kinds(counts))
        for layer, counts in sorted(inside.items())
    ]
    return _fold(rows)


def draw_grid(rows: Sequence[Row], *, key: str, title: str) -> Markup:
    """The squares of one graph."""
    y = 4.0
    drawn = []
    for row in rows:
        drawn.append(
            Markup('<text class="row" x="{:g}" y="{:g}">{}</text>').format(
                _LEFT - 10, y + _SIDE, row.name
            )
        )
        for index, kind in enumerate(row.kinds):
            line, column = divmod(index, _PER_LINE)
            drawn.append(
                Markup('<rect class="node" fill="var(--{})" x="{:g}" y="{:g}"/>').format(
                    BY_KEY[kind].colour, _LEFT + column * _STEP, y + line * _STEP
                )
            )
        y += _ROW + _STEP * (max(0, len(row.kinds) - 1) // _PER_LINE)
    spoken = "; ".join(f"{row.name}: {len(row.kinds)} nodes" for row in rows)
    head = Markup(
        '<svg class="grid" viewBox="0 0 {:g} {:g}" role="img" aria-labelledby="{}-t {}-d" '
        'xmlns="http://www.w3.org/2000/svg"><title id="{}-t">{}</title><desc id="{}-d">{}</desc>'
    ).format(WIDTH, y, key, key, key, title, key, spoken)
    return Markup("").join([head, *drawn, Markup("</svg>")])


def _name(part: Part, parts: Sequence[Part]) -> str:
    if part.layer is None:
        return "before" if part is parts[0] else "behind"
    stacks = {other.layer.stack for other in parts if other.layer is not None}
    head = (
        f"{part.layer.stack.rpartition('.')[0] or part.layer.stack} "
        if len(stacks) > 1
        else "layer "
    )
    return f"{head}{part.layer.index}"


def _kinds(operators: Sequence[str]) -> tuple[str, ...]:
    return tuple(kind_of(operator).key for operator in operators)


def _sorted_kinds(counts: Mapping[str, int]) -> tuple[str, ...]:
    order = [kind.key for kind in KINDS]
    kinds = [kind_of(name).key for name, number in counts.items() for _ in range(number)]
    return tuple(sorted(kinds, key=order.index))


def _fold(rows: list[Row]) -> list[Row]:
    """Where there are too many rows, runs of equal layers become one."""
    if len(rows) <= _MOST_ROWS:
        return rows
    folded: list[tuple[Row, str]] = []
    for row in rows:
        if folded and sorted(folded[-1][0].kinds) == sorted(row.kinds):
            folded[-1] = (folded[-1][0], row.name)
        else:
            folded.append((row, row.name))
    return [
        first
        if first.name == last
        else Row(f"{first.name} to {last.rpartition(' ')[2]}", first.kinds)
        for first, last in folded
    ]
