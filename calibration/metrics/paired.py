"""How far the drop of a metric may lie from what a sample of examples shows."""

from __future__ import annotations

import numpy as np

from .base import Metric, Rows
from .bootstrap import ROUNDS, Interval, interval, resamples

_BLOCK = 50
"""Rounds drawn at once: 40 MB for 100,000 examples."""


def drop_interval(
    metric: Metric, reference: Rows, candidate: Rows, *, rounds: int = ROUNDS, seed: int = 0
) -> Interval:
    """Where what the candidate loses lies, with 95 % confidence and before it is scaled.

    Both models are judged on the same examples in each round, so what makes an example hard for
    both cancels out (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        metric: of both.
        reference: its rows ``[examples, columns]``.
        candidate: rows of the same examples.
        rounds: how often examples are drawn.
        seed: the same seed and rows give the same interval.
    """
    drops = [
        metric.lost(metric.value(reference[drawn]), metric.value(candidate[drawn]))
        for block, start in enumerate(range(0, rounds, _BLOCK))
        for drawn in resamples(
            len(reference), seed=seed + block, rounds=min(_BLOCK, rounds - start)
        )
    ]
    return interval(np.asarray(drops))
