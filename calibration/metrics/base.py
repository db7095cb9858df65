"""What a metric is: rows of numbers, one an example, and a value of any choice of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS = 100.0
"""A metric of 0.8672 is reported as 86.72 points; drops are given in the same points."""

Rows = NDArray[np.float64]
"""What a metric needs of each example, ``[examples, columns]``; examples may be drawn again."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure from 0 to 1, or -1 to 1 for a correlation, unless its title says otherwise.

    Split in two so that a bootstrap can draw examples again without answering them again.

    Attributes:
        name: as the user spells it.
        title: what exactly it is.
        rows: answers and what was expected, one each an example, to `Rows`.
        value: of any non-empty choice of rows, repetitions included; always finite.
        scale: what a figure is multiplied by when it is reported.
        lower_is_better: whether a drop is a rise.
    """

    name: str
    title: str
    rows: Callable[[Sequence[Any], Sequence[Any]], Rows]
    value: Callable[[Rows], float]
    scale: float = POINTS
    lower_is_better: bool = False

    def lost(self, reference: float, candidate: float) -> float:
        """What a candidate loses against a reference, as both are given; below 0 when it gains."""
        return candidate - reference if self.lower_is_better else reference - candidate


def beside(answers: Sequence[float], expected: Sequence[float]) -> Rows:
    """Answer and expectation of each example as numbers, ``[examples, 2]``."""
    return np.column_stack([np.asarray(answers, float), np.asarray(expected, float)])


def mean(rows: Rows) -> float:
    """Mean of the only column."""
    return float(rows[:, 0].mean())
