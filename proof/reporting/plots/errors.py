"""How large errors are, and what a metric loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .canvas import HALF, colour, figure, to_svg

TAIL = 0.02
"""Share of the smallest errors that a plot may leave out."""


@dataclass(frozen=True)
class Histogram:
    """Errors of one candidate: bins of log10 of the absolute error, and the count in each."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    exact: int
    tint: str


def draw_histogram(histograms: Sequence[Histogram], output: str, key: str) -> Markup:
    """Absolute errors of an output, one line a candidate."""
    shown = [histogram for histogram in histograms if sum(histogram.counts)]
    with figure(HALF, 250) as (drawing, axes):
        top = 0.0
        for histogram in shown:
            whole = sum(histogram.counts) + histogram.exact
            shares = [100 * count / whole for count in histogram.counts]
            top = max(top, *shares)
            axes.stairs(shares, histogram.edges, color=colour(histogram.tint), linewidth=1.6)
            axes.stairs(
                shares, histogram.edges, color=colour(histogram.tint), fill=True, alpha=0.14
            )
            peak = shares.index(max(shares))
            axes.annotate(
                histogram.name, (sum(histogram.edges[peak : peak + 2]) / 2, shares[peak]), (0, 5),
                textcoords="offset points", ha="center", color=colour(histogram.tint),
                fontsize=10.5,
            )  # fmt: skip
        _decades(axes, shown)
        axes.set_ylim(0, top * 1.16 or 1)
        axes.set_ylabel("% of numbers")
        axes.set_xlabel("absolute error")
        return to_svg(
            drawing,
            key=key,
            title=f"Absolute errors of {output}",
            description="; ".join(map(_spoken, shown)),
        )


@dataclass(frozen=True)
class Drop:
    """What one candidate loses of one metric, and where the loss lies with 95 % confidence."""

    name: str
    drop: float
    interval: tuple[float, ...]
    allowed: float | None


def draw_drops(drops: Sequence[Drop], metric: str, key: str) -> Markup:
    """Losses of a metric with their intervals."""
    with figure(HALF, 78 + 26 * len(drops)) as (drawing, axes):
        for row, drop in enumerate(drops):
            if len(drop.interval) == 2:
                axes.plot(drop.interval, [row, row], color=colour("c1"), linewidth=2.2, alpha=0.55)
            axes.plot([drop.drop], [row], "o", color=colour("c1"), markersize=6.5)
            axes.annotate(
                f"{drop.drop:+.2f}".replace("-", "\N{MINUS SIGN}"), (drop.drop, row), (0, 7),
                textcoords="offset points", ha="center", color=colour("c1"), fontsize=10.5,
            )  # fmt: skip
            if drop.allowed is not None:
                axes.plot(
                    [drop.allowed] * 2, [row - 0.3, row + 0.3], color=colour("c2"), linewidth=2
                )
        axes.axvline(0, color=colour("soft"), linewidth=1)
        axes.set_yticks(range(len(drops)), [drop.name for drop in drops])
        axes.set_ylim(len(drops) - 0.5, -0.75)
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.set_xlabel(f"points of {metric} lost: left is better")
        return to_svg(
            drawing,
            key=key,
            title=f"Loss of {metric} with its 95 % interval",
            description="; ".join(
                f"{d.name}: {d.drop:+.2f}"
                + (
                    f", {d.interval[0]:+.2f} to {d.interval[1]:+.2f}"
                    if len(d.interval) == 2
                    else ""
                )
                for d in drops
            ),
        )


def _decades(axes: object, histograms: Sequence[Histogram]) -> None:
    """Ticks at powers of ten, over the bins that hold anything."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    ends = [_middle(histogram) for histogram in histograms] or [(-8.0, 0.0)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    axes.set_xlim(low - 0.25, high + 0.25)  # type: ignore[attr-defined]
    axis = axes.xaxis  # type: ignore[attr-defined]
    axis.set_major_locator(MultipleLocator(2 if high - low > 7 else 1))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(round(value))))


def _middle(histogram: Histogram) -> tuple[float, float]:
    """The edges between which all but the smallest `TAIL` of the errors lie."""
    whole, seen = sum(histogram.counts), 0.0
    low, high = histogram.edges[0], histogram.edges[-1]
    for left, right, count in zip(
        histogram.edges, histogram.edges[1:], histogram.counts, strict=False
    ):
        if seen <= TAIL * whole:
            low = left
        seen += count
        if count:
            high = right
    return low, high


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _spoken(histogram: Histogram) -> str:
    peak = max(range(len(histogram.counts)), key=lambda index: histogram.counts[index])
    return (
        f"{histogram.name}: most often between 10^{histogram.edges[peak]:g} and "
        f"10^{histogram.edges[peak + 1]:g}, {histogram.exact} without any error"
    )
