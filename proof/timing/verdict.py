"""Which of two candidates is faster: paired by round, exact whatever the noise.

In every round each candidate has one turn, in random order. If two candidates are the same,
whatever slowed the first or the second turn of a round (another process, a lower clock, what ran
before) fell on one name or the other by the throw of a coin. The signs of the log-ratios of the
rounds are then fair coins, independent of their sizes and of each other, however heavy-tailed or
autocorrelated the noise is. Wilcoxon's signed-rank test needs just that, so its error rate is
exact, and its inversion, the Hodges-Lehmann estimate with its interval, gives the ratio.

Source: Wilcoxon 1945 (doi:10.2307/3001968); Hodges and Lehmann 1963 (doi:10.1214/aoms/1177704172).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import FeedError

Outcome = Literal["faster", "slower", "no difference"]
Floats = NDArray[np.float64]

CONFIDENCE = 0.99
"""Of an interval. At 0.95, one of 20 comparisons of equals would be called different."""

FLOOR = 0.02
"""Differences below it are no difference: two sessions of one file may differ by a percent,
because their memory lies elsewhere, and a new process draws again."""

LEAST_ROUNDS = 8
"""Below it no outcome of a signed-rank test is as rare as 1 in 100."""

_WIDE = 1.1
"""Ends of an interval this far apart leave room for differences that matter."""

_MOST_BLOCKS = 200
_LEAST_BLOCKS = 10


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Time of a candidate through time of the reference.

    Attributes:
        ratio: estimate; 0.5 means half the time.
        low: lower end of its interval.
        high: upper end.
        confidence: of the interval.
        rounds: pairs it rests on.
        block: rounds in a row that were joined to one value, because they were alike.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    rounds: int
    block: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a ratio says.

    Attributes:
        outcome: of the candidate against the reference.
        ratio: the estimate and its interval.
        floor: difference that counts, 0.02 for two percent.
        reason: why there is no difference; empty when there is one.
    """

    outcome: Outcome
    ratio: Ratio
    floor: float
    reason: str = ""


def judge(candidate: Sequence[float], reference: Sequence[float], floor: float = FLOOR) -> Verdict:
    """Say whether a candidate is faster than the reference.

    Args:
        candidate: time of each round, in any unit [rounds].
        reference: the same of the reference.
        floor: difference that counts.

    Raises:
        FeedError: when the rounds are too few or do not pair.
    """
    found = paired_ratio(candidate, reference)
    if found.low <= 1 <= found.high:
        reason = f"{found.low:.3f} to {found.high:.3f} includes 1"
        if found.high > _WIDE * found.low:
            reason += "; more --seconds would narrow it"
        return Verdict(outcome="no difference", ratio=found, floor=floor, reason=reason)
    if abs(math.log(found.ratio)) < math.log1p(floor):
        reason = f"it is below {floor:.1%}, the difference that counts"
        return Verdict(outcome="no difference", ratio=found, floor=floor, reason=reason)
    outcome: Outcome = "faster" if found.ratio < 1 else "slower"
    return Verdict(outcome=outcome, ratio=found, floor=floor)


def paired_ratio(
    candidate: Sequence[float], reference: Sequence[float], confidence: float = CONFIDENCE
) -> Ratio:
    """The Hodges-Lehmann estimate of the ratio within a round, and its interval.

    Args:
        candidate: time of each round [rounds].
        reference: the same of the reference.
        confidence: of the interval, which is exact for independent signs.

    Raises:
        FeedError: when the rounds are too few or do not pair.
    """
    if len(candidate) != len(reference) or len(candidate) < LEAST_ROUNDS:
        raise FeedError(
            f"a ratio needs at least {LEAST_ROUNDS} rounds of both candidates, got "
            f"{len(candidate)} and {len(reference)}; give more --seconds or --iterations"
        )
    logs: Floats = np.log(np.asarray(candidate, float)) - np.log(np.asarray(reference, float))
    block = _block_length(logs)
    values = np.array([np.median(part) for part in np.array_split(logs, logs.size // block)])
    rows, columns = np.triu_indices(values.size)
    walsh = np.sort((values[rows] + values[columns]) / 2)
    rank = _rank(values.size, (1 - confidence) / 2)
    low, middle, high = np.exp([walsh[rank], np.median(walsh), walsh[-1 - rank]])
    return Ratio(
        ratio=float(middle),
        low=float(low),
        high=float(high),
        confidence=confidence,
        rounds=logs.size,
        block=block,
    )


def _rank(count: int, tail: float) -> int:
    """The most Walsh averages that may lie beyond an end of the interval, exactly."""
    chances = np.ones(1)
    for rank in range(1, count + 1):  # of each sum of ranks that fell on the positive side
        longer = np.zeros(chances.size + rank)
        longer[: chances.size] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    return max(0, int(np.searchsorted(np.cumsum(chances), tail, side="right")) - 1)


def _block_length(logs: Floats) -> int:
    """Rounds in a row that are as good as one, from the autocorrelation of their ranks.

    For equal candidates it is 1 but for chance. Between different ones the ratio itself may change
    with time, as when another process takes memory bandwidth and not cores; rounds are then not
    independent, and their number would promise too much.
    """
    most = max(1, logs.size // _LEAST_BLOCKS)
    ranks = np.argsort(np.argsort(logs)).astype(float)
    ranks -= ranks.mean()
    total = 1.0
    for lag in range(1, most + 1):
        correlation = float(ranks[lag:] @ ranks[:-lag] / (ranks @ ranks))
        if correlation < 2 / math.sqrt(logs.size):
            break
        total += 2 * correlation
    longest = math.ceil(2 * total) if total > 1 else 1
    return min(max(longest, math.ceil(logs.size / _MOST_BLOCKS)), most)
