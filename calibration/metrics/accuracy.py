"""Accuracy: the part of the examples that got the right label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import Metric, Rows, mean


def _rows(answers: Sequence[int], expected: Sequence[int]) -> Rows:
    """1 for a right label, 0 for a wrong one."""
    right = np.equal(answers, expected)
    return np.asarray(right[:, None], np.float64)


ACCURACY = Metric(name="accuracy", title="accuracy", rows=_rows, value=mean)
