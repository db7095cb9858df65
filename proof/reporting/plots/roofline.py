"""The roofline: what nodes reach of what the machine could, and how well times were predicted.

Source: Williams, Waterman, Patterson 2009 (doi:10.1145/1498765.1498785).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .canvas import HALF, colour, figure, to_svg

_LABELS = 5
_LEFT, _RIGHT = 0.02, 50.0
"""Least room around the ridge: this part and this multiple of its intensity."""


@dataclass(frozen=True)
class Roof:
    """A machine: operations a second at most, and bytes a second at most."""

    name: str
    flops: float


@dataclass(frozen=True)
class Point:
    """A class of nodes: operations a byte, operations a second, share of the time."""

    name: str
    intensity: float
    rate: float
    share: float


def draw_roofline(
    points: Sequence[Point], roofs: Sequence[Roof], bandwidth: float, key: str
) -> Markup:
    """Classes of nodes under the roofs; the area of a dot is its share of the time."""
    lowest = min([point.intensity for point in points] + [roofs[0].flops / bandwidth * _LEFT])
    highest = max([point.intensity for point in points] + [roofs[-1].flops / bandwidth * 4])
    low, high = lowest / 2, highest * 2
    with figure(HALF, 330) as (drawing, axes):
        for roof in roofs:
            ridge = roof.flops / bandwidth
            axes.plot(
                [low, ridge, high], [low * bandwidth, roof.flops, roof.flops],
                color=colour("n1"), linewidth=1.3,
            )  # fmt: skip
            axes.annotate(
                f"{roof.name} {roof.flops / 1e9:,.0f} Gop/s", (ridge, roof.flops), (2, 5),
                textcoords="offset points", ha="left", color=colour("soft"), fontsize=10.5,
            )  # fmt: skip
        ridge = roofs[0].flops / bandwidth
        axes.annotate(
            f"memory {bandwidth / 1e9:,.0f} GB/s", (ridge / 6, ridge / 6 * bandwidth), (-8, 4),
            textcoords="offset points", ha="right", color=colour("soft"), fontsize=10.5,
        )  # fmt: skip
        axes.scatter(
            [point.intensity for point in points], [point.rate for point in points],
            [24 + 560 * point.share for point in points], color=colour("c1"), alpha=0.55,
            linewidths=0,
        )  # fmt: skip
        _label(axes, points)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(min(point.rate for point in points) / 3, roofs[-1].flops * 2.5)
        axes.minorticks_off()
        _plain(axes)
        axes.set_xlabel("operations a byte")
        axes.set_ylabel("operations a second")
        return to_svg(
            drawing,
            key=key,
            title="Roofline: operations a second against operations a byte",
            description="; ".join(
                f"{p.name}: {p.intensity:.3g} operations a byte, {p.rate / 1e9:.3g} Gop/s, "
                f"{p.share:.0%} of the time"
                for p in points
            ),
        )


def draw_predictions(pairs: Sequence[tuple[float, float]], key: str) -> Markup:
    """Predicted against measured times of nodes.

    Args:
        pairs: predicted and measured, both in milliseconds and above 0.
        key: what ids begin with.
    """
    times = [time for pair in pairs for time in pair]
    low, high = min(times) / 1.5, max(times) * 1.5
    with figure(HALF, 330) as (drawing, axes):
        axes.plot([low, high], [low, high], color=colour("n1"), linewidth=1.2)
        axes.scatter(
            [predicted for predicted, _ in pairs], [measured for _, measured in pairs], 18,
            color=colour("c1"), alpha=0.5, linewidths=0,
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.minorticks_off()
        _plain(axes)
        axes.set_xlabel("predicted, ms")
        axes.set_ylabel("measured, ms")
        return to_svg(
            drawing,
            key=key,
            title="Predicted against measured time of every node",
            description=f"{len(pairs)} nodes from {min(times):.3g} to {max(times):.3g} ms",
        )


def _label(axes: object, points: Sequence[Point]) -> None:
    """Names of the slowest classes; those that lie together share a label."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: -point.share):
        near = next((group for group in groups if _are_close(group[0], point)), None)
        if near is None:
            groups.append([point])
        else:
            near.append(point)
    right = max(point.intensity for point in points) / 4
    for group in groups[:_LABELS]:
        first, more = group[0], len(group) - 1
        name = first.name.rpartition(":")[2] + (f" and {more} more" if more else "")
        axes.annotate(  # type: ignore[attr-defined]
            name, (first.intensity, first.rate), (10 if first.intensity > right else 0, -15),
            textcoords="offset points", ha="right" if first.intensity > right else "center",
            va="center", color=colour("c1"), fontsize=10.5,
        )  # fmt: skip


def _are_close(one: Point, other: Point) -> bool:
    return 0.45 < one.intensity / other.intensity < 2.2 and 0.6 < one.rate / other.rate < 1.7


def _plain(axes: object) -> None:
    """Powers of ten in words: mathtext would turn text into paths."""
    from matplotlib.ticker import FuncFormatter

    for axis in (axes.xaxis, axes.yaxis):  # type: ignore[attr-defined]
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
