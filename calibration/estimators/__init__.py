"""From statistics to ranges: one estimator a file; `ESTIMATORS` lists them by name."""

from __future__ import annotations

from collections.abc import Mapping

from .absmax import AbsoluteMaximum
from .base import Estimator

ESTIMATORS: Mapping[str, Estimator] = {AbsoluteMaximum.name: AbsoluteMaximum()}

__all__ = ["ESTIMATORS", "AbsoluteMaximum", "Estimator"]
