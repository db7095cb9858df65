"""What calibration found: how far activations reach, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .canvas import HALF, colour, figure, to_svg


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One activation: the largest element seen, the range kept for it, the cost in the answer."""

    name: str
    largest: float | None
    amax: float | None
    decibels: float | None
    is_float: bool


def draw_reaches(reaches: Sequence[Reach], key: str) -> Markup:
    """The largest element of each activation, and the range that int8 covers after smoothing."""
    with figure(HALF, 60 + 17 * len(reaches)) as (drawing, axes):
        for row, reach in enumerate(reaches):
            ends = [value for value in (reach.largest, reach.amax) if value]
            if len(ends) == 2:
                axes.plot(ends, [row, row], color=colour("grid"), linewidth=2, zorder=1)
            if reach.largest:
                axes.plot(reach.largest, row, "o", color=colour("c2"), markersize=5.5)
            if reach.amax:
                axes.plot(reach.amax, row, "o", color=colour("c1"), markersize=5.5)
        axes.set_xscale("log")
        _plain_logarithm(axes)
        _rows(axes, [reach.name for reach in reaches])
        axes.set_xlabel("magnitude of an element")
        return to_svg(
            drawing,
            key=key,
            title="Largest element and range of each activation",
            description=_spoken(reaches),
        )


def draw_costs(reaches: Sequence[Reach], key: str) -> Markup:
    """How far below the answer the error of each activation and its weights lies."""
    known = [reach.decibels for reach in reaches if reach.decibels is not None]
    with figure(HALF, 60 + 17 * len(reaches)) as (drawing, axes):
        worst = sorted(known)[:3]
        for row, reach in enumerate(reaches):
            if reach.decibels is None:
                continue
            is_worst = reach.decibels in worst
            tint = colour("n1") if reach.is_float else colour("c2" if is_worst else "c1")
            axes.plot([reach.decibels], [row], "o", color=tint, markersize=5.5)
            if is_worst:
                axes.annotate(
                    f"{reach.decibels:.1f} dB", (reach.decibels, row), (8, 0),
                    textcoords="offset points", va="center", color=colour("c2"), fontsize=10.5,
                )  # fmt: skip
        axes.grid(axis="x")
        _rows(axes, [reach.name for reach in reaches])
        axes.set_xlabel("dB: right is better")
        return to_svg(
            drawing,
            key=key,
            title="Error that each activation and the weights behind it cause, in decibels",
            description="; ".join(
                f"{reach.name} {reach.decibels:.1f} dB" for reach in reaches if reach.decibels
            ),
        )


def _rows(axes: object, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)  # type: ignore[attr-defined]
    axes.set_ylim(len(names) - 0.4, -0.9)  # type: ignore[attr-defined]


def _plain_logarithm(axes: object) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis  # type: ignore[attr-defined]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x")  # type: ignore[attr-defined]


def _spoken(reaches: Sequence[Reach]) -> str:
    return "; ".join(
        f"{reach.name}: largest {reach.largest:.3g}, range {reach.amax:.3g}"
        for reach in reaches
        if reach.largest and reach.amax
    )
