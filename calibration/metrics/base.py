"""What a metric is: rows of numbers, one an example, and a value of any choice of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
"""What a metric needs of each example, ``[examples, columns]``; examples may be drawn again."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure from 0 to 1 (or -1 to 1 for a correlation); more is better.

    Split in two so that a bootstrap can draw examples again without answering them again.

    Attributes:
        name: as the user spells it.
        title: what exactly it is.
        rows: answers and what was expected, one each an example, to `Rows`.
        value: of any non-empty choice of rows, repetitions included; always finite.
    """

    name: str
    title: str
    rows: Callable[[Sequence[Any], Sequence[Any]], Rows]
    value: Callable[[Rows], float]


def beside(answers: Sequence[float], expected: Sequence[float]) -> Rows:
    """Answer and expectation of each example as numbers, ``[examples, 2]``."""
    return np.column_stack([np.asarray(answers, float), np.asarray(expected, float)])


def mean(rows: Rows) -> float:
    """Mean of the only column."""
    return float(rows[:, 0].mean())
