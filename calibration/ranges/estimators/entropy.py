"""Lose the least information, as TensorRT's entropy calibration did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ...statistics.histogram import BINS, Histogram

_LEVELS = 128
_STRIDE = 8


@dataclass(frozen=True)
class Entropy:
    """The range whose 128 levels have the least Kullback-Leibler divergence from the histogram.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017. Made for convolutional networks: in
    transformers it clips the outliers that attention relies on, so `auto` takes it only where the
    error on held-out text says so.
    """

    name: ClassVar[str] = "entropy"

    def amax(self, histogram: Histogram, absmax: float) -> float:
        """The upper edge of the best range."""
        if not absmax:
            return 0.0
        last = min(BINS, max(_LEVELS, int(np.ceil(absmax / histogram.width))))
        counts = histogram.counts.astype(np.float64)
        ends = [*range(_LEVELS, last, _STRIDE), last]
        losses = [_divergence(counts[:end], counts[end:].sum()) for end in ends]
        return min(absmax, float(ends[int(np.argmin(losses))] * histogram.width))


def _divergence(kept: NDArray[np.float64], clipped: float) -> float:
    """Of the kept bins, with what is clipped in the last, from their 128 levels spread out."""
    wanted = kept.copy()
    wanted[-1] += clipped
    level = np.arange(kept.size) * _LEVELS // kept.size
    filled = kept > 0
    totals = np.bincount(level, kept, minlength=_LEVELS)
    shares = totals / np.maximum(np.bincount(level, filled, minlength=_LEVELS), 1)
    spread = np.where(filled, shares[level], 0.0)
    if not spread.sum():
        return float(np.inf)
    p, q = wanted / wanted.sum(), spread / spread.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-9))).sum())
