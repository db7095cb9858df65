"""The seam every range estimator fills in."""

from __future__ import annotations

from typing import Protocol

from ..statistics import TensorStatistics


class Estimator(Protocol):
    """Chooses the range of one tensor; a frozen value without state."""

    @property
    def name(self) -> str:
        """As written into ``calibration.json``, for example ``absmax``."""

    def amax(self, statistics: TensorStatistics) -> float:
        """The largest magnitude INT8 shall represent; 0 for a tensor that is always zero."""
