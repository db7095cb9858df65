"""Figures of one candidate at one piece of work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from .turns import Turn
from .work import Work

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
RARE = 99.9
_FOR_RARE = 1000
"""Calls from which p99.9 is given: below, it is the slowest call."""

_CDF_POINTS = 200

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Latencies in milliseconds, and rates.

    Attributes:
        calls: timed.
        percentiles_ms: ``p50`` to ``p99``, with ``p99.9`` from 1,000 calls on: the latency that
            so many percent of the calls did not exceed, a latency that was measured.
        min_ms: fastest call.
        mean_ms: mean.
        max_ms: slowest call.
        variation: standard deviation through mean.
        sequences_per_second: answered.
        tokens_per_second: real ones, padding not counted.
        fill: share of real tokens in what was computed; None where the runtime pads.
        cpu_seconds_per_1000: CPU time of this process for 1,000 sequences, all threads.
        occupancy: share of the time that clients waited for an answer.
        cdf_ms: at most 200 latencies, evenly spaced among all by rank, the first and last kept.
        rounds_ms: the time of each round that candidates are compared by.
    """

    calls: int
    percentiles_ms: Mapping[str, float]
    min_ms: float
    mean_ms: float
    max_ms: float
    variation: float
    sequences_per_second: float
    tokens_per_second: float
    fill: float | None
    cpu_seconds_per_1000: float
    occupancy: float
    cdf_ms: tuple[float, ...] = field(repr=False)
    rounds_ms: tuple[float, ...] = field(repr=False)

    def as_json(self) -> dict[str, object]:
        """For the document, rounded to a nanosecond."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def figures(turns: Sequence[Turn], work: Work, rounds: Sequence[float]) -> Figures:
    """Sum up the turns of a candidate.

    Args:
        turns: of all rounds.
        work: what each call answered.
        rounds: nanoseconds of each round, from `race.round_times`.
    """
    latencies = np.sort(np.concatenate([turn.latencies for turn in turns])) / 1e6
    calls = int(latencies.size)
    seconds = sum(turn.wall for turn in turns) / 1e9
    sequences = calls * work.sequences
    mean = float(latencies.mean())
    return Figures(
        calls=calls,
        percentiles_ms=percentiles(latencies),
        min_ms=float(latencies[0]),
        mean_ms=mean,
        max_ms=float(latencies[-1]),
        variation=float(latencies.std() / mean) if mean else 0.0,
        sequences_per_second=sequences / seconds,
        tokens_per_second=calls * work.mean_tokens / seconds,
        fill=work.fill,
        cpu_seconds_per_1000=sum(turn.cpu for turn in turns) / 1e6 / sequences,
        occupancy=sum(turn.occupancy * turn.wall for turn in turns) / (seconds * 1e9),
        cdf_ms=tuple(thinned(latencies)),
        rounds_ms=tuple(time / 1e6 for time in rounds),
    )


def percentiles(ordered: Floats) -> dict[str, float]:
    """Percentiles by nearest rank.

    Args:
        ordered: latencies, ascending [calls], at least one.
    """
    wanted = (*PERCENTILES, RARE) if ordered.size >= _FOR_RARE else PERCENTILES
    return {f"p{percent:g}": by_rank(ordered, percent) for percent in wanted}


def by_rank(ordered: Floats, percent: float) -> float:
    """The least latency that at least so many percent of the calls did not exceed."""
    rank = math.ceil(percent * ordered.size / 100 - 1e-9)
    return float(ordered[max(rank, 1) - 1])


def thinned(ordered: Floats, most: int = _CDF_POINTS) -> list[float]:
    """At most so many of the values, evenly spaced, the first and last among them."""
    if ordered.size <= most:
        return [float(value) for value in ordered]
    at = np.linspace(0, ordered.size - 1, most).round().astype(int)
    return [float(value) for value in ordered[at]]


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, tuple | list) else value
