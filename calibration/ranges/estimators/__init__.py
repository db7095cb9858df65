"""From histograms to ranges: one estimator a file; `ESTIMATORS` lists them by name."""

from __future__ import annotations

from collections.abc import Mapping

from .absmax import AbsoluteMaximum
from .base import Estimator
from .entropy import Entropy
from .mse import SquaredError
from .percentile import Percentile

ESTIMATORS: Mapping[str, Estimator] = {
    estimator.name: estimator
    for estimator in (AbsoluteMaximum(), Percentile(), SquaredError(), Entropy())
}

__all__ = [
    "ESTIMATORS",
    "AbsoluteMaximum",
    "Entropy",
    "Estimator",
    "Percentile",
    "SquaredError",
]
