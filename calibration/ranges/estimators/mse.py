"""Balance what is clipped with what is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ....passes.qdq.params import QMAX
from ...statistics.histogram import Histogram

_CANDIDATES = np.geomspace(0.1, 1.0, 64)


@dataclass(frozen=True)
class SquaredError:
    """The range with the least mean squared error of the quantised elements.

    Candidates are 64 parts of the absolute maximum, from a tenth to all of it.
    """

    name: ClassVar[str] = "mse"

    def amax(self, histogram: Histogram, absmax: float) -> float:
        """The best candidate, the larger one when two are equal."""
        centres = np.minimum(histogram.centres, absmax)
        ranges = absmax * _CANDIDATES[::-1]
        errors = [self._error(centres, histogram, candidate) for candidate in ranges]
        return float(ranges[int(np.argmin(errors))])

    @staticmethod
    def _error(centres: np.ndarray, histogram: Histogram, amax: float) -> float:
        step = amax / QMAX
        if step == 0:
            return 0.0
        rounded = np.minimum(np.rint(centres / step), QMAX) * step
        return float((histogram.counts * np.square(rounded - centres)).sum())
