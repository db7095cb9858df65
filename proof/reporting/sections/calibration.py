"""Calibration: the range of each activation, what lay outside, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from .. import numerals
from ..bundle_facts import BundleFacts
from ..layers import layer_of, within_layer
from ..plots.ranges import Reach, draw_costs, draw_reaches
from ..reader import Facts
from ..tables import Table, columns
from .precision import decibels_of

_NAMED = 3
"""Readers of one activation that are named; others are counted."""

_DRAWN = 48
"""Activations that one plot can hold; of more the loudest are drawn."""


@dataclass(frozen=True, kw_only=True)
class CalibrationSection:
    """The section; None of it where nothing was calibrated."""

    summary: str
    plots: tuple[Markup, ...]
    table: Table | None
    notes: tuple[str, ...]


def make_calibration(bundle: BundleFacts) -> CalibrationSection:
    """Tell and draw the ranges."""
    quantization = bundle.report.part("quantization")
    edges = quantization.parts("edges")
    if not quantization:
        return CalibrationSection(
            summary="Nothing was calibrated: a float engine needs no ranges.",
            plots=(), table=None, notes=(),
        )  # fmt: skip
    whole = quantization.number("sqnr_db")
    reaches = [_reach(edge, whole) for edge in _drawn(edges)]
    plots: tuple[Markup, ...] = ()
    if any(reach.amax for reach in reaches):
        plots = (
            draw_reaches(reaches, f"{bundle.key}-reach"),
            draw_costs(reaches, f"{bundle.key}-cost"),
        )
    return CalibrationSection(
        summary=_summary(quantization),
        plots=plots,
        table=_table(edges, whole),
        notes=tuple(_notes(edges)),
    )


def short_name(edge: Facts) -> str:
    """``3 query, key, value``: the layer, and who reads the activation."""
    linears = edge.texts("linears")
    if not linears:
        return edge.text("tensor") or "?"
    layer = layer_of(linears[0])
    words = [_words(within_layer(name)) for name in linears]
    readers = [" ".join(words[0][-2:])] if len(words) == 1 else [path[-1] for path in words]
    more = f" +{len(readers) - _NAMED}" if len(readers) > _NAMED else ""
    return (f"{layer.index} " if layer else "") + ", ".join(readers[:_NAMED]) + more


def _words(module: str) -> list[str]:
    """The words of a path that tell modules apart."""
    return [word for word in module.split(".") if word not in ("self", "dense")] or [module]


def _drawn(edges: tuple[Facts, ...]) -> list[Facts]:
    if len(edges) <= _DRAWN:
        return list(edges)
    loudest = sorted(edges, key=lambda edge: -(edge.number("noise_share") or 0))[:_DRAWN]
    kept = {id(edge) for edge in loudest}
    return [edge for edge in edges if id(edge) in kept]


def _reach(edge: Facts, whole: float | None) -> Reach:
    largest = edge.part("outlier").number("value")
    return Reach(
        name=short_name(edge),
        largest=None if largest is None else abs(largest),
        amax=edge.number("amax"),
        decibels=decibels_of(edge, whole),
        is_float=edge.text("format") == "float",
    )


def _table(edges: tuple[Facts, ...], whole: float | None) -> Table:
    rows = []
    for edge in edges:
        outlier = edge.part("outlier")
        token = outlier.text("token")
        where = f"channel {outlier.count('channel')}" if "channel" in outlier else ""
        rows.append(
            [
                short_name(edge),
                edge.text("format") or numerals.DASH,
                numerals.significant(edge.number("amax")),
                numerals.significant(outlier.number("value")),
                f"{where}, {token}" if token else where or numerals.DASH,
                numerals.percent(edge.number("clip_rate")),
                numerals.fixed(edge.number("headroom"), 2),
                numerals.percent(edge.number("noise_share")),
                numerals.fixed(decibels_of(edge, whole), 1),
            ]
        )
    return Table(
        caption="Every activation that linears read, in graph order",
        columns=columns(
            "activation (layer, reader)|format|#range|#largest seen|where|#clipped|#headroom|"
            "#share of error|#dB"
        ),
        rows=rows,
        sortable=True,
    )


def _summary(quantization: Facts) -> str:
    corpus = quantization.part("corpus")
    parts = [
        f"Ranges were chosen from {numerals.count(quantization.count('texts'))} texts, "
        f"{numerals.count(quantization.count('tokens'))} tokens "
        f"({quantization.text('source') or 'unknown source'})"
    ]
    if "median" in corpus:
        parts.append(
            f", {numerals.count(corpus.number('shortest'))} to "
            f"{numerals.count(corpus.number('longest'))} tokens long, "
            f"half of them up to {numerals.count(corpus.number('median'))}"
        )
    if "held_out_texts" in quantization:
        parts.append(
            f"; the figures are of {numerals.count(quantization.count('held_out_texts'))} others"
        )
    return "".join(parts) + "."


def _notes(edges: tuple[Facts, ...]) -> list[str]:
    notes = []
    clipped = max(edges, key=lambda edge: edge.number("clip_rate") or 0, default=None)
    if clipped is not None and clipped.number("clip_rate"):
        notes.append(
            f"Most clipped on unseen text: {short_name(clipped)}, "
            f"{numerals.percent(clipped.number('clip_rate'))} of its elements."
        )
    shrunk = [
        edge for edge in edges if edge.number("amax") and edge.part("outlier").number("value")
    ]
    if shrunk:
        most = max(shrunk, key=_shrinkage)
        notes.append(
            f"Smoothing helped most at {short_name(most)}: the largest element, "
            f"{numerals.significant(most.part('outlier').number('value'))}, now fits a range of "
            f"{numerals.significant(most.number('amax'))}."
        )
    return notes


def _shrinkage(edge: Facts) -> float:
    return abs(edge.part("outlier").number("value") or 0) / (edge.number("amax") or 1)
