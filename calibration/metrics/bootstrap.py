"""How far a figure may be off because other texts of the same kind would give another one.

The percentile bootstrap: texts are drawn again with replacement, the figure is computed anew for
each draw, and the interval holds the middle 95 % of what comes out.

Source: B. Efron, Bootstrap Methods: Another Look at the Jackknife, Annals of Statistics 7 (1979).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 1000
"""The ends of an interval move by a twentieth of its width at most when others are drawn."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """Where a figure lies.

    Attributes:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


def resamples(count: int, seed: int = 0, rounds: int = ROUNDS) -> NDArray[np.intp]:
    """Draws of as many texts as there are, with replacement.

    The same arguments give the same draws, so two candidates that answered the same texts are
    compared draw by draw (paired).

    Args:
        count: texts, at least 1.
        seed: another seed draws others.
        rounds: draws.

    Returns:
        Indices of texts, ``[rounds, count]``.
    """
    return np.random.default_rng(seed).integers(count, size=(rounds, count), dtype=np.intp)


def interval(figures: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """The middle part of a figure's values over all draws, ``[rounds]``."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(figures, (tail, 1 - tail))
    return Interval(float(low), float(high))
