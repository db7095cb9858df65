"""How far a difference between two models may lie from what a sample of examples shows."""

from __future__ import annotations

import numpy as np

from .base import Metric, Rows

RESAMPLES = 1000
LEVEL = 0.95


def paired_bootstrap(
    metric: Metric,
    reference: Rows,
    candidate: Rows,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of ``metric(reference) - metric(candidate)``, the drop.

    Both models are judged on the same examples each time they are drawn, with replacement, so
    what makes an example hard for both cancels out. The interval is that of the percentiles
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        metric: of both.
        reference: its rows [examples, columns].
        candidate: rows of the same examples.
        resamples: how often examples are drawn.
        level: how often the interval should hold the true drop.
        seed: the same seed and rows give the same interval.

    Returns:
        Lower and upper bound.
    """
    rng = np.random.default_rng(seed)
    count = len(reference)
    drops = np.empty(resamples)
    for number in range(resamples):
        drawn = rng.integers(count, size=count)
        drops[number] = metric.value(reference[drawn]) - metric.value(candidate[drawn])
    low, high = np.quantile(drops, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
