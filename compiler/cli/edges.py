"""The quantised edges of a bundle as tables: what harms most stands first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from .console import print_table, say

_SHOWN = 10
_COLUMNS = ("noise %", "clip %", "reach", "outlier", "smoothing", "linears")
_PLACES = {
    "one Mul and one Add": "Mul+Add",
    "one Mul": "Mul",
    "columns of the value projection": "values",
    "columns of the linear in front": "linear",
}
"""Short words for what takes the smoothing over; the gain of a norm is left."""

Edge = Mapping[str, Any]


def print_edges(quantization: Mapping[str, Any], *, every: bool = False) -> None:
    """Show the damage, the edges by their share of the noise, and what stays float and why.

    Args:
        quantization: of ``report.json``.
        every: all edges instead of the worst ones.
    """
    say(_damage(quantization))
    edges = quantization.get("edges", ())
    names = short_names([name for edge in edges for name in edge["linears"]])
    quantized = [edge for edge in edges if edge["format"] != "float"]
    worst = sorted(quantized, key=lambda edge: edge["noise_share"] or 0.0, reverse=True)
    shown = worst if every else worst[:_SHOWN]
    rest = "" if len(shown) == len(worst) else f", {len(shown)} of {len(worst)} (--all for all)"
    if shown:
        title = f"quantised edges, noisiest first{rest}"
        print_table(title, _COLUMNS, [_row(edge, names) for edge in shown])
    floats = [(_joined(edge, names), edge["reason"]) for edge in edges if edge["reason"]]
    if floats:
        print_table("left in float", ("linears", "reason"), floats)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the parts at both ends that all of them share, by the whole name."""
    parts = {name: re.split(r"(?<=[./])|(?=[./])", name) for name in names}
    if len(parts) < 2:
        return {name: name for name in names}
    head = _shared(parts.values())
    tail = _shared([part[head:][::-1] for part in parts.values()])
    return {
        name: "".join(part[head : len(part) - tail]).strip("./") for name, part in parts.items()
    }


def _shared(rows: Iterable[Sequence[str]]) -> int:
    """How many leading items all rows have in common; every row keeps one of its own."""
    rows = list(rows)
    least = min(map(len, rows)) - 1
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return max(0, min(least, sum(1 for _ in alike)))


def _damage(quantization: Mapping[str, Any]) -> str:
    count = quantization["int8"] + quantization.get("fp8", 0)
    name = quantization.get("format", "int8")
    line = f"{name}: {count} of {quantization['linears']} linears"
    if quantization["sqnr_db"] is None:
        return f"{line}; not measured on held-out text"
    interval = quantization.get("sqnr_interval")
    between = "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"
    return (
        f"{line}; {quantization['sqnr_db']:.1f} dB{between}, least cosine "
        f"{quantization['cosine_min']:.6g}, on {quantization['held_out_texts']} held-out texts"
    )


def _row(edge: Edge, names: Mapping[str, str]) -> tuple[object, ...]:
    reach = edge["headroom"]
    return (
        _percent(edge["noise_share"], 1),
        _percent(edge["clip_rate"], 3),
        None if reach is None else round(reach, 2),
        _outlier(edge["outlier"]),
        _smoothing(edge),
        _joined(edge, names),
    )


def _joined(edge: Edge, names: Mapping[str, str]) -> str:
    """``0.attention.self.query, key, value``: what the names share stands once."""
    first, *others = (names[name] for name in edge["linears"])
    shared = first[: max(first.rfind("."), first.rfind("/")) + 1]
    return ", ".join([first, *(other.removeprefix(shared) for other in others)])


def _percent(share: float | None, digits: int) -> float | None:
    return None if share is None else round(100 * share, digits)


def _outlier(outlier: Mapping[str, Any] | None) -> str | None:
    """Value, token and channel."""
    if outlier is None:
        return None
    token = "" if outlier["token"] is None else f" {outlier['token']}"
    return f"{outlier['value']:.3g}{token} {outlier['channel']}"


def _smoothing(edge: Edge) -> str | None:
    if edge["alpha"] is None:
        return None
    return f"{edge['alpha']:.2f} {_PLACES.get(edge['transform'], 'norm')}"
