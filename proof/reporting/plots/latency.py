"""How long calls take: the share of calls within a time, and how many sequences a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .canvas import HALF, colour, figure, to_svg

TINTS = ("c1", "c2", "c3", "c4", "c5", "c6", "n1")

_SQUEEZED = 6


@dataclass(frozen=True)
class Curve:
    """One candidate: ascending latencies, evenly spaced by rank, and its colour."""

    name: str
    latencies: tuple[float, ...]
    tint: str


def draw_distribution(curves: Sequence[Curve], work: str, key: str) -> Markup:
    """The share of calls that took at most so long."""
    curves = sorted(curves, key=lambda curve: curve.latencies[len(curve.latencies) // 2])
    with figure(HALF, 260) as (drawing, axes):
        for row, curve in enumerate(curves):
            shares = _shares(len(curve.latencies))
            axes.step(
                curve.latencies, shares, where="post", color=colour(curve.tint), linewidth=1.6
            )
            at = 0.9 - 0.8 * row / max(1, len(curves) - 1) if len(curves) > 1 else 0.5
            value = curve.latencies[min(len(curve.latencies) - 1, int(at * len(curve.latencies)))]
            axes.annotate(
                curve.name, (value, at), (6, -1), textcoords="offset points", va="center",
                color=colour(curve.tint), fontsize=10.5,
            )  # fmt: skip
        if not _squeezes(curves):
            _bound(axes, curves)
        else:
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.5, 0.9, 0.99], ["0", "50 %", "90 %", "99 %"])
        axes.grid(axis="y")
        axes.set_xlabel("milliseconds a call")
        return to_svg(
            drawing,
            key=key,
            title=f"Share of calls within a time, {work}",
            description="; ".join(_spoken(curve) for curve in curves),
        )


def draw_throughput(
    works: Sequence[str],
    rates: dict[str, tuple[float | None, ...]],
    tints: dict[str, str],
    key: str,
) -> Markup:
    """Sequences a second of every candidate, work by work."""
    names = list(rates)
    bar = 0.8 / len(names)
    with figure(HALF, 70 + 15 * len(names) * len(works)) as (drawing, axes):
        for place, name in enumerate(names):
            for row, rate in enumerate(rates[name]):
                if rate is None:
                    continue
                y = row + (place - (len(names) - 1) / 2) * bar
                axes.barh(y, rate, bar * 0.82, color=colour(tints[name]))
                axes.annotate(
                    f"{rate:,.0f}  {name}" if row == 0 else f"{rate:,.0f}", (rate, y), (5, 0),
                    textcoords="offset points", va="center", color=colour(tints[name]),
                    fontsize=10.5,
                )  # fmt: skip
        most = max((rate for found in rates.values() for rate in found if rate), default=1)
        axes.set_xlim(0, most * 1.45)
        axes.set_yticks(range(len(works)), works)
        axes.set_ylim(len(works) - 0.5, -0.5)
        axes.set_xlabel("sequences a second")
        return to_svg(
            drawing,
            key=key,
            title="Sequences a second",
            description="; ".join(
                f"{name}: "
                + ", ".join(
                    f"{work} {rate:.0f}" for work, rate in zip(works, found, strict=True) if rate
                )
                for name, found in rates.items()
            ),
        )


def _bound(axes: object, curves: Sequence[Curve]) -> None:
    """A few slow calls would squeeze all others: the axis ends a little behind the 99th percent."""
    lows = [curve.latencies[0] for curve in curves]
    highs = [
        curve.latencies[min(len(curve.latencies) - 1, int(0.99 * len(curve.latencies)))]
        for curve in curves
    ]
    room = (max(highs) - min(lows)) or max(highs) or 1.0
    axes.set_xlim(max(0.0, min(lows) - 0.04 * room), max(highs) + 0.3 * room)  # type: ignore[attr-defined]


def _squeezes(curves: Sequence[Curve]) -> bool:
    """Whether the fastest would be a line at the edge of an even axis."""
    middles = [curve.latencies[len(curve.latencies) // 2] for curve in curves]
    return max(middles) > _SQUEEZED * min(middles)


def _shares(number: int) -> list[float]:
    return [(index + 1) / number for index in range(number)]


def _spoken(curve: Curve) -> str:
    middle = curve.latencies[len(curve.latencies) // 2]
    return f"{curve.name}: half within {middle:.3g} ms, all within {curve.latencies[-1]:.3g} ms"
