"""Where the time goes: the cost model of one engine at one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import numerals
from ..plots.roofline import Point, Roof, draw_predictions, draw_roofline
from ..reader import Facts
from ..tables import Table, columns
from .accuracy import Plot

_DRAWN_SHARE = 0.002
_LISTED = 800
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class CostSection:
    """A cost model."""

    summary: str
    classes: Table
    more_classes: Table | None
    nodes: Table
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]


def make_costs(document: Facts) -> CostSection | None:
    """Tell a document of `fuselage inspect --costs`; None without one."""
    if not document:
        return None
    nodes = document.parts("nodes")
    is_long = len(document.parts("classes")) > _SHOWN
    return CostSection(
        summary=_summary(document),
        classes=_classes(document.parts("classes")[:_SHOWN]),
        more_classes=_classes(document.parts("classes")) if is_long else None,
        nodes=_nodes(nodes),
        plots=tuple(_plots(document, nodes)),
        notes=(
            *document.texts("notes"),
            *(f"the model cannot count {name}" for name in document.texts("unknown")),
        ),
    )  # fmt: skip


def _summary(document: Facts) -> str:
    totals, errors = document.part("totals"), document.part("errors")
    flops, moved = (totals.part(key).number("value") for key in ("flops", "bytes"))
    source = document.part("peaks").text("source")
    said = [
        f"One call of {document.text('target') or document.text('subject')} at "
        f"{document.part('shape').text('text')} is {numerals.significant((flops or 0) / 1e9)} G "
        f"operations over {numerals.size(moved)}. At the peaks of the machine "
        f"({source or 'unknown'}) that takes at least "
        f"{numerals.milliseconds(totals.number('floor_ms'))}."
    ]
    if "measured_ms" not in totals:
        said.append("Nothing was timed: times and shares are those of this floor.")
    else:
        said.append(f"It took {numerals.milliseconds(totals.number('measured_ms'))}.")
    if errors:
        said.append(
            f"The model said {numerals.milliseconds(errors.number('predicted_ms'))}: its median "
            f"error is {numerals.percent(errors.number('node_median'))} a node, and its order of "
            "the nodes has a rank correlation with theirs of "
            f"{numerals.fixed(errors.number('spearman'), 3)}."
        )
    return " ".join([*said, *_busy(document.part("environment"))])


def _busy(environment: Facts) -> list[str]:
    """Peaks that were measured while others used the machine are too low."""
    load = environment.number("load_average")
    cores = environment.part("cpu").count("physical_cores")
    if load is None or cores is None or load <= cores:
        return []
    return [f"Its load was {numerals.fixed(load, 1)} then, so these peaks are too low."]


def _classes(classes: Sequence[Facts]) -> Table:
    rows = [
        [
            entry.text("class") or "?",
            numerals.count(entry.count("nodes")),
            numerals.milliseconds(entry.number("ms")),
            numerals.percent(entry.number("share")),
            numerals.milliseconds(entry.number("floor_ms")),
            numerals.percent(entry.number("achieved")),
            entry.text("bound") or numerals.DASH,
        ]
        for entry in classes
    ]
    return Table(
        caption="Classes of nodes, the slowest first",
        columns=columns("class|#nodes|#time|#of all|#floor|#of the roof|bound by"),
        rows=rows,
        sortable=True,
    )


def _nodes(nodes: Sequence[Facts]) -> Table:
    return Table(
        caption="Every node",
        columns=columns("node|operator|#operations|#measured|#predicted|#floor|bound by|kernel"),
        rows=[
            [
                node.text("name") or "?",
                node.text("op") or "?",
                numerals.significant(node.part("flops").number("value")),
                numerals.milliseconds(node.number("measured_ms")),
                numerals.milliseconds(node.number("predicted_ms")),
                numerals.milliseconds(node.number("floor_ms")),
                node.text("bound") or numerals.DASH,
                node.text("kernel") or numerals.DASH,
            ]
            for node in nodes[:_LISTED]
        ],
    )


def _plots(document: Facts, nodes: Sequence[Facts]) -> list[Plot]:
    plots = []
    peaks = document.part("peaks")
    points = _points(document.parts("classes"))
    rates = [rate for copy in peaks.parts("copies") if (rate := copy.number("rate"))]
    roofs = [
        Roof(name, rate)
        for name, key in (("float", "flops"), ("int8", "integer_flops"))
        if (rate := peaks.number(key))
    ]
    roofs.sort(key=lambda roof: roof.flops)
    if points and rates and roofs and "measured_ms" in document.part("totals"):
        plots.append(
            Plot(
                "Roofline.",
                "Each dot is a class of nodes, its area the share of the time. A dot on a line "
                "cannot be faster on this machine.",
                draw_roofline(points, roofs, max(rates), "roofline"),
            )
        )
    pairs = [
        (said, took)
        for node in nodes
        if (said := node.number("predicted_ms")) and (took := node.number("measured_ms"))
    ]
    if pairs:
        svg = draw_predictions(pairs, "predictions")
        plots.append(Plot("Prediction.", "Each dot is a node; on the line it was predicted.", svg))
    return plots


def _points(classes: Sequence[Facts]) -> list[Point]:
    points = []
    for entry in classes:
        flops, moved, time = (entry.number(key) for key in ("flops", "bytes", "ms"))
        share = entry.number("share")
        if flops and moved and time and (share or 0) >= _DRAWN_SHARE:
            points.append(
                Point(entry.text("class") or "?", flops / moved, flops / time * 1e3, share or 0)
            )
    return points
