"""Cover all but a fixed part of the elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ....errors import CalibrationError
from ...statistics.histogram import Histogram


@dataclass(frozen=True)
class Percentile:
    """The magnitude that a percentage of all elements stays below.

    The percentage counts elements, not tokens: [CLS] is one of 15 tokens and its outlier one of
    1536 channels, 4e-5 of the elements, which 99.999 keeps and 99.99 cuts.

    Attributes:
        percent: above 0, at most 100.

    Raises:
        CalibrationError: when it is not.
    """

    name: ClassVar[str] = "percentile"
    percent: float = 99.999

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise CalibrationError(
                f"percentile: expected more than 0 and at most 100, got {self.percent}"
            )

    def amax(self, histogram: Histogram, absmax: float) -> float:
        """The upper edge of the bin the percentile falls into."""
        below = np.cumsum(histogram.counts)
        needed = self.percent / 100 * below[-1]
        at = int(np.searchsorted(below, needed))
        return min(absmax, float(histogram.edges[at + 1]))
