"""The model as a picture: before the passes and after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from .. import numerals
from ..blocks import blocks_of
from ..bundle_facts import CANONICAL, BundleFacts
from ..layer_diagram import draw_layer, is_drawable
from ..layers import Part, parts_of
from ..node_grid import draw_grid, rows_of_modules, rows_of_outline
from ..onnx_outline import Outline
from ..operators import KINDS, Kind, kind_of

_DRAWN_BLOCKS = 60
_EXPORTED = "exporter"
_COLUMNS = {_EXPORTED: "exported", CANONICAL: "canonical"}


@dataclass(frozen=True)
class Drawing:
    """A picture with its caption."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class KindRow:
    """How many nodes of one kind each graph has."""

    kind: Kind
    counts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PictureSection:
    """The section."""

    graphs: tuple[str, ...]
    kinds: tuple[KindRow, ...]
    totals: tuple[str, ...]
    grids: tuple[Drawing, ...]
    layers: tuple[Drawing, ...]
    summary: str
    missing: str


def make_picture(bundle: BundleFacts) -> PictureSection:
    """Draw the graphs that are known."""
    counts: dict[str, Counter[str]] = {}
    grids = []
    modules = _modules(bundle)
    if modules:
        counts[_EXPORTED] = Counter()
        for operators in modules.values():
            counts[_EXPORTED].update(operators)
        grids.append(
            Drawing(
                "As exported", f"{numerals.count(counts[_EXPORTED].total())} nodes, sorted by kind",
                draw_grid(rows_of_modules(modules), key=f"{bundle.key}-grid-export",
                          title="Nodes of the exporter's graph, by layer and kind"),
            )
        )  # fmt: skip
    for name, outline in bundle.graphs.items():
        counts[name] = Counter(node.operator for node in outline.nodes)
        grids.append(
            Drawing(
                _title(name), f"{numerals.count(len(outline.nodes))} nodes",
                draw_grid(rows_of_outline(outline), key=f"{bundle.key}-grid-{_slug(name)}",
                          title=f"Nodes of the graph {name}, by layer and kind"),
            )
        )  # fmt: skip
    layers = [drawn for name in bundle.graphs if (drawn := _layer(bundle, name))]
    return PictureSection(
        graphs=tuple(_COLUMNS.get(name, name) for name in counts),
        kinds=_kind_rows(counts),
        totals=tuple(numerals.count(count.total()) for count in counts.values()),
        grids=tuple(grids),
        layers=tuple(layers),
        summary=_summary(bundle),
        missing=_missing(bundle, bool(modules)),
    )


def _modules(bundle: BundleFacts) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, operators in bundle.report.part("exported").named("modules"):
        found[name] = {key: operators.count(key) or 0 for key in operators.content}
    return found


def _missing(bundle: BundleFacts, has_modules: bool) -> str:
    if not bundle.graphs:
        return "This bundle holds no ONNX graph, so there is nothing to draw."
    if has_modules:
        return ""
    stages = bundle.report.parts("stages")
    nodes = stages[0].count("nodes_after") if stages else None
    return (
        f"The exporter's graph ({numerals.count(nodes)} nodes) is not drawn: this bundle was built "
        "before its outline was kept. Build it again to see it."
    )


def _kind_rows(counts: Mapping[str, Counter[str]]) -> tuple[KindRow, ...]:
    rows = []
    for kind in KINDS:
        numbers = [
            sum(number for name, number in count.items() if kind_of(name) is kind)
            for count in counts.values()
        ]
        if any(numbers):
            rows.append(KindRow(kind, tuple(numerals.count(n) if n else "·" for n in numbers)))
    return tuple(rows)


def _layer(bundle: BundleFacts, name: str) -> Drawing | None:
    """The second layer where there is one: the first may hold what all share."""
    outline = bundle.graphs[name]
    part = _typical(outline)
    if part is None or part.layer is None:
        return None
    blocks = blocks_of(part.nodes, outline)
    if len(blocks) > _DRAWN_BLOCKS or not is_drawable(blocks):
        return None
    where = f"{part.layer.stack} {part.layer.index}"
    described = ", then ".join(block.title for block in blocks)
    title = f"{where} in the graph {name}"
    svg = draw_layer(blocks, title, described, f"{bundle.key}-layer-{_slug(name)}")
    alike = sum(1 for other in parts_of(outline) if _same(other, part))
    alike_too = f", one of {alike} alike" if alike > 1 else ""
    return Drawing(
        _title(name),
        f"layer {part.layer.index}{alike_too}, {len(part.nodes)} nodes",
        svg,
    )


def _typical(outline: Outline) -> Part | None:
    """Of the layers with the most frequent operators, the second or the only one."""
    layers = [part for part in parts_of(outline) if part.layer is not None]
    if not layers:
        return None
    shapes = Counter(_shape(part) for part in layers)
    common = [part for part in layers if _shape(part) == shapes.most_common(1)[0][0]]
    return common[1] if len(common) > 2 else common[0]


def _shape(part: Part) -> tuple[str, ...]:
    return tuple(sorted(node.operator for node in part.nodes))


def _same(part: Part, other: Part) -> bool:
    return part.layer is not None and _shape(part) == _shape(other)


def _summary(bundle: BundleFacts) -> str:
    outline = bundle.graphs.get(CANONICAL)
    if outline is None:
        return ""
    parts = parts_of(outline)
    layers = [part for part in parts if part.layer is not None]
    stacks = Counter(part.layer.stack for part in layers if part.layer)
    if not stacks:
        return "The nodes do not say which layer they belong to."
    said = " and ".join(
        f"{number} {'layer' if number == 1 else 'layers'} in {stack}"
        for stack, number in stacks.items()
    )
    return (
        f"{said[0].upper()}{said[1:]}. Each square is one node, in the order in which they run "
        "where nothing else is said; its colour says what it is for."
    )


def _title(name: str) -> str:
    titles = {_EXPORTED: "As exported", CANONICAL: "Canonical"}
    return titles.get(name, f"As {name} runs it")


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
