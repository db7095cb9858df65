"""The precision map: every linear of every layer, its format and the error it brings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..layers import Layer, layer_of, within_layer
from ..reader import Facts

LEVELS = 7
"""Steps of the colour scale, 0 the quietest."""

_STEP_DB = 3.0


@dataclass(frozen=True)
class Cell:
    """One linear: its format, the error it brings, and how dark that is drawn."""

    text: str
    level: int | None
    spoken: str


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """Linears down, layers across."""

    caption: str
    layers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class PrecisionSection:
    """The section; no heat maps where nothing is quantised."""

    summary: str
    maps: tuple[Heatmap, ...]
    kept_float: tuple[tuple[str, str], ...]
    scale: tuple[str, ...]


def make_precision(bundle: BundleFacts) -> PrecisionSection:
    """Lay out the linears of the quantisation, stack by stack."""
    quantization = bundle.report.part("quantization")
    if not quantization:
        return PrecisionSection(
            summary=f"Nothing is quantised: every linear computes in {bundle.precision}.",
            maps=(), kept_float=(), scale=(),
        )  # fmt: skip
    cells = dict(_cells(quantization))
    stacks = sorted({layer.stack for name in cells if (layer := layer_of(name))})
    maps = [_map(stack, cells) for stack in stacks]
    loose = {name: cell for name, cell in cells.items() if layer_of(name) is None}
    if loose:
        rows = tuple((_module(name), (cell,)) for name, cell in loose.items())
        maps.append(Heatmap(caption="Linears outside the layers", layers=("",), rows=rows))
    return PrecisionSection(
        summary=_summary(quantization),
        maps=tuple(maps),
        kept_float=tuple(
            (entry.text("node") or "", entry.text("reason") or "")
            for entry in quantization.parts("kept_float")
        ),
        scale=_scale(quantization.number("sqnr_db")),
    )


def decibels_of(edge: Facts, whole: float | None) -> float | None:
    """Signal to noise of the answer, had it only this edge's error.

    Errors are taken to add up: a share s of the error energy at a ratio of R dB is
    R - 10 log10 s.
    """
    share = edge.number("noise_share")
    return whole - 10 * math.log10(share) if whole is not None and share else None


def _cells(quantization: Facts) -> Iterator[tuple[str, Cell]]:
    whole = quantization.number("sqnr_db")
    for edge in quantization.parts("edges"):
        form = edge.text("format") or "float"
        level = decibels_of(edge, whole)
        for name in edge.texts("linears"):
            yield name, _cell(form, level, whole)
    listed = {name for edge in quantization.parts("edges") for name in edge.texts("linears")}
    for entry in quantization.parts("kept_float"):
        node = entry.text("node")
        if node and node not in listed:
            yield node, _cell("float", None, whole)


def _cell(form: str, value: float | None, whole: float | None) -> Cell:
    if form == "float":
        return Cell("float", None, "float")
    if value is None or whole is None:
        return Cell(form, 0, form)
    loudness = (whole + _STEP_DB * LEVELS - value) / _STEP_DB
    level = max(0, min(LEVELS - 1, math.floor(loudness)))
    return Cell(numerals.fixed(value, 1), level, f"{form}, {numerals.fixed(value, 1)} dB")


def _scale(whole: float | None) -> tuple[str, ...]:
    """The bounds of the colour levels, quietest first."""
    if whole is None:
        return ()
    bounds = [whole + _STEP_DB * (LEVELS - level) for level in range(LEVELS)]
    return tuple(
        f"above {bound - _STEP_DB:.0f}" if index == 0 else f"below {bound:.0f}"
        if index == LEVELS - 1 else f"{bound - _STEP_DB:.0f} to {bound:.0f}"
        for index, bound in enumerate(bounds)
    )  # fmt: skip


def _map(stack: str, cells: dict[str, Cell]) -> Heatmap:
    found: dict[str, dict[Layer, Cell]] = {}
    for name, cell in cells.items():
        layer = layer_of(name)
        if layer is not None and layer.stack == stack:
            found.setdefault(_module(name), {})[layer] = cell
    layers = sorted({layer for row in found.values() for layer in row})
    missing = Cell("", None, "none")
    return Heatmap(
        caption=f"Linears of {stack}, by layer",
        layers=tuple(str(layer.index) for layer in layers),
        rows=tuple(
            (module, tuple(row.get(layer, missing) for layer in layers))
            for module, row in found.items()
        ),
    )


def _module(name: str) -> str:
    return within_layer(name) or name


def _summary(quantization: Facts) -> str:
    name = quantization.text("format") or "int8"
    done, linears = quantization.count(name) or 0, quantization.count("linears") or 0
    edges = [e for e in quantization.parts("edges") if e.number("noise_share")]
    text = f"{done} of {linears} linears have {name} codes, {linears - done} stay float."
    if done == linears:
        text = f"All {linears} linears have {name} codes."
    if quantization.flag("weight_only"):
        return f"{text} Weights alone are quantised; activations stay float."
    if edges:
        loudest = sorted(edges, key=lambda edge: edge.number("noise_share") or 0, reverse=True)
        half = _half_of_error(loudest)
        text += (
            f" {half} of {len(edges)} activations bring half of the error, the loudest "
            f"{numerals.percent(loudest[0].number('noise_share'))} of it."
        )
    return text


def _half_of_error(edges: Sequence[Facts]) -> int:
    total = 0.0
    for number, edge in enumerate(edges, 1):
        total += edge.number("noise_share") or 0
        if total >= 0.5:
            return number
    return len(edges)
