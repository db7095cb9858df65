"""Cover everything that was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...statistics.histogram import Histogram


@dataclass(frozen=True)
class AbsoluteMaximum:
    """The largest magnitude seen: nothing the corpus holds is ever clipped.

    Clipping hurts transformers: their outliers are one token ([CLS]) in one channel, and on MiniLM
    the 99.9th percentile cuts exactly those and loses 2 points on STS-B, entropy 1 point.
    """

    name: ClassVar[str] = "absmax"

    def amax(self, histogram: Histogram, absmax: float) -> float:  # noqa: ARG002
        """The absolute maximum."""
        return absmax
