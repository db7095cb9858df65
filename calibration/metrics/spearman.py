"""Spearman's rank correlation between similarities and the scores people gave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .base import Metric, Rows, beside


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson correlation of the ranks; equal values share the mean of their ranks.

    Spearman, The Proof and Measurement of Association between Two Things, 1904; ties as in
    Kendall, Rank Correlation Methods, 1948. Where one side has a single value there is no order
    to agree with, and the result is 0.

    Args:
        first: [n].
        second: [n].

    Returns:
        -1 to 1.
    """
    a, b = _centred(ranks(first)), _centred(ranks(second))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size else 0.0


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 on, the mean rank where values are equal [n]."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means = last - (counts - 1) / 2
    return np.asarray(means[places], np.float64)


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values - values.mean(), np.float64)


def _value(rows: Rows) -> float:
    return spearman(rows[:, 0], rows[:, 1])


SPEARMAN = Metric(name="spearman", title="Spearman's rank correlation", rows=beside, value=_value)
