"""The seam every range estimator fills in."""

from __future__ import annotations

from typing import Protocol

from ...statistics.histogram import Histogram


class Estimator(Protocol):
    """Chooses the range of one tensor; a frozen value without state."""

    @property
    def name(self) -> str:
        """As written into ``calibration.json``, for example ``absmax``."""

    def amax(self, histogram: Histogram, absmax: float) -> float:
        """The largest magnitude INT8 shall represent.

        Args:
            histogram: of the magnitudes that were seen.
            absmax: the largest of them; 0 for a tensor that is always zero.

        Returns:
            At most `absmax`, and 0 only when that is 0.
        """
