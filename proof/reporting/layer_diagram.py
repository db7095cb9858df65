"""Draws the blocks of one layer, top to bottom, as an SVG."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from .blocks import Block, main_input
from .operators import BY_KEY

WIDTH = 440.0
_GAP, _ROW_GAP, _TALL, _THIN, _LANE, _TOP = 10.0, 22.0, 42.0, 24.0, 14.0, 40.0
_WIDEST, _MARGIN, _WIDE_MARGIN = 158.0, 34.0, 66.0
_CROWD = 4
"""Boxes that a row can hold."""

_LETTER = 6.4
"""Width of a letter of a title, to know what fits a box."""

_ASIDE = {"RotaryEmbedding": "angles", "Attention": "mask", "MultiHeadAttention": "mask"}
"""What a block reads from outside of the way through the layer."""

_START = -1
"""Index of what enters the layer."""


@dataclass
class _Box:
    """A placed block; x is its middle."""

    block: Block
    row: int
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0


@dataclass
class _Picture:
    boxes: list[_Box]
    steps: list[tuple[int, int]]
    """Edges to the next row."""
    jumps: list[tuple[int, int, int]]
    """Edges over rows: from, to, lane."""
    stubs: list[int] = field(default_factory=list)
    """Blocks that read what all layers share."""
    height: float = 0.0


def is_drawable(blocks: list[Block]) -> bool:
    """Whether no row would be too crowded to read."""
    rows = Counter(box.row for box in _lay_out(blocks).boxes)
    return bool(rows) and max(rows.values()) <= _CROWD


def draw_layer(blocks: list[Block], title: str, description: str, key: str) -> Markup:
    """The picture of a layer.

    Args:
        blocks: in topological order.
        title: of the picture, for screen readers.
        description: what it shows, for screen readers.
        key: what its ids begin with.
    """
    picture = _lay_out(blocks)
    head = Markup(
        '<svg class="diagram" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-labelledby="{key}-t {key}-d" xmlns="http://www.w3.org/2000/svg">'
        '<title id="{key}-t">{title}</title><desc id="{key}-d">{description}</desc>'
        '<defs><marker id="{key}-arrow" viewBox="0 0 8 8" refX="7.2" refY="4" '
        'markerWidth="6.5" markerHeight="6.5" orient="auto">'
        '<path class="tip" d="M0 .8 7.4 4 0 7.2z"/></marker></defs>'
    ).format(width=WIDTH, height=picture.height, key=key, title=title, description=description)
    parts = [head, *_draw_edges(picture, f"{key}-arrow")]
    parts += [_draw_box(box) for box in picture.boxes]
    return Markup("").join([*parts, Markup("</svg>")])


def _lay_out(blocks: list[Block]) -> _Picture:
    makers: dict[str, int] = {}
    boxes: list[_Box] = []
    edges: list[tuple[int, int]] = []
    main = main_input(blocks)
    picture = _Picture(boxes, [], [])
    for index, block in enumerate(blocks):
        inner = sorted({makers[name] for name in block.inputs if name in makers})
        edges += [(source, index) for source in inner]
        if main in block.inputs:
            edges.append((_START, index))
        if block.aside:
            picture.stubs.append(index)
        boxes.append(_Box(block, 1 + max((boxes[source].row for source in inner), default=0)))
        makers.update(dict.fromkeys(block.outputs, index))
    _sort_edges(picture, edges)
    _place(picture)
    return picture


def _sort_edges(picture: _Picture, edges: list[tuple[int, int]]) -> None:
    """Give each edge over rows a lane in which no other runs beside it."""
    rows = {index: box.row for index, box in enumerate(picture.boxes)} | {_START: 0}
    ends: list[int] = []
    for source, target in sorted(edges, key=lambda edge: (rows[edge[0]], rows[edge[1]])):
        if rows[target] - rows[source] == 1:
            picture.steps.append((source, target))
            continue
        lane = next((i for i, end in enumerate(ends) if end <= rows[source]), len(ends))
        ends[lane : lane + 1] = [rows[target]]
        picture.jumps.append((source, target, lane))


def _place(picture: _Picture) -> None:
    by_row: dict[int, list[_Box]] = defaultdict(list)
    for box in picture.boxes:
        by_row[box.row].append(box)
    lanes = 1 + max((lane for _, _, lane in picture.jumps), default=-1)
    margin = _WIDE_MARGIN if _has_crowded_stub(picture, by_row) else _MARGIN
    room = WIDTH - margin - 4 - lanes * _LANE
    y = _TOP
    for row in sorted(by_row):
        line = by_row[row]
        width = min(_WIDEST, (room - _GAP * (len(line) - 1)) / len(line))
        tall = max(_THIN if box.block.thin else _TALL for box in line)
        for index, box in enumerate(line):
            box.width = width
            box.height = _THIN if box.block.thin else _TALL
            box.x = margin + room / 2 + (index - (len(line) - 1) / 2) * (width + _GAP)
            box.y = y + (tall - box.height) / 2
        y += tall + _ROW_GAP
    picture.height = y + 18


def _has_crowded_stub(picture: _Picture, by_row: Mapping[int, list[_Box]]) -> bool:
    return any(len(by_row[picture.boxes[index].row]) > 1 for index in picture.stubs)


def _draw_edges(picture: _Picture, arrow: str) -> list[Markup]:
    line = Markup('<path class="edge" d="{}" marker-end="url(#{})"/>')
    centre = next((box.x for box in picture.boxes if box.row == 1), WIDTH / 2)
    row_one = [box.x for box in picture.boxes if box.row == 1]
    centre = sum(row_one) / len(row_one) if row_one else centre
    drawn = [
        Markup('<text class="end" x="{:g}" y="13">from the layer before</text>').format(centre)
    ]
    for source, target in picture.steps:
        end = picture.boxes[target]
        start = (centre, 18.0) if source == _START else _bottom(picture.boxes[source])
        several = [s for s, t in picture.steps if t == target]
        spread = (several.index(source) - (len(several) - 1) / 2) * min(28, end.width / 4)
        drawn.append(line.format(_curve(start, (end.x + spread, end.y - 1)), arrow))
    for source, target, lane in picture.jumps:
        start = (centre, 24.0) if source == _START else _right(picture.boxes[source])
        aside = WIDTH - 6 - lane * _LANE
        drawn.append(line.format(_detour(start, _right(picture.boxes[target]), aside), arrow))
    first = {box.row: box for box in reversed(picture.boxes)}
    stubs = [picture.boxes[index] for index in picture.stubs]
    drawn += [_stub(box, line, arrow) for box in stubs if first[box.row] is box]
    last = picture.boxes[-1]
    down = f"M{last.x:.1f} {last.y + last.height:.1f}V{picture.height - 20:.1f}"
    drawn.append(line.format(down, arrow))
    text = Markup('<text class="end" x="{:g}" y="{:g}">to the next</text>')
    return [*drawn, text.format(last.x, picture.height - 5)]


def _stub(box: _Box, line: Markup, arrow: str) -> Markup:
    """A value that does not come from this layer enters from the left."""
    left, middle = box.x - box.width / 2, box.y + box.height / 2
    word = _ASIDE.get(box.block.title, "shared")
    text = Markup('<text class="end" style="text-anchor:end" x="{:g}" y="{:g}">{}</text>')
    path = f"M{left - 26:.1f} {middle:.1f}H{left - 1:.1f}"
    return line.format(path, arrow) + text.format(left - 31, middle + 4, word)


def _bottom(box: _Box) -> tuple[float, float]:
    return box.x, box.y + box.height


def _right(box: _Box) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + box.height / 2


def _curve(start: tuple[float, float], end: tuple[float, float]) -> str:
    bend = (end[1] - start[1]) * 0.6
    return (
        f"M{start[0]:.1f} {start[1]:.1f}C{start[0]:.1f} {start[1] + bend:.1f} "
        f"{end[0]:.1f} {end[1] - bend:.1f} {end[0]:.1f} {end[1]:.1f}"
    )


def _detour(start: tuple[float, float], end: tuple[float, float], aside: float) -> str:
    bend = 7.0
    return (
        f"M{start[0]:.1f} {start[1]:.1f}H{aside - bend:.1f}q{bend} 0 {bend} {bend}"
        f"V{end[1] - bend:.1f}q0 {bend} -{bend} {bend}H{end[0] + 2:.1f}"
    )


def _draw_box(box: _Box) -> Markup:
    block, left = box.block, box.x - box.width / 2
    rect = Markup(
        '<rect class="{}" style="--k:var(--{})" x="{:.1f}" y="{:.1f}" width="{:.1f}" '
        'height="{:g}" rx="{}"/>'
    ).format(
        "box thin" if block.thin else "box",
        BY_KEY[block.kind].colour, left, box.y, box.width, box.height, 5,
    )  # fmt: skip
    middle = box.y + box.height / 2
    fits = int((box.width - 10) / _LETTER)
    title = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
    if block.thin or not block.detail:
        style = "name small" if block.thin else "name"
        return rect + title.format(style, box.x, middle + 4, _cut(block.title, fits))
    return (
        rect
        + title.format("name", box.x, middle - 3, _cut(block.title, fits))
        + title.format("name small", box.x, middle + 13, _cut(block.detail, fits + 3))
    )


def _cut(text: str, letters: int) -> str:
    """The end of a module's path says more than its beginning, which goes first."""
    while len(text) > letters and "." in text:
        text = text.partition(".")[2]
    return text if len(text) <= letters else text[: max(1, letters - 1)] + "…"
