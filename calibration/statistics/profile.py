"""Everything calibration keeps of one tensor while text streams by, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array
from .extrema import TensorStatistics
from .histogram import Histogram
from .outlier import Outlier, Peak, TokenRows
from .reservoir import Keys, Reservoir


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorProfile:
    """Extrema, histogram and sample of everything a tensor held. Values merge in any order.

    Attributes:
        statistics: extrema of the whole tensor.
        low: smallest element of each channel, float32 ``[channels]``.
        high: largest element of each channel.
        histogram: of magnitudes.
        reservoir: rows of it.
        peak: its largest element.
    """

    statistics: TensorStatistics
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    histogram: Histogram
    reservoir: Reservoir
    peak: Peak

    @classmethod
    def of(
        cls,
        name: str,
        values: Array,
        keys: Keys,
        capacity: int,
        beside: TensorProfile | None = None,
        ids: TokenRows | None = None,
    ) -> TensorProfile:
        """Look at one batch.

        Args:
            name: of the tensor, for the error.
            values: float ``[..., channels]``, without padding.
            keys: of each token, ``[tokens]``; with another number of rows, rows take the first.
            capacity: rows to keep.
            beside: what the result will be merged with, which saves copying rows in vain.
            ids: of the tokens, ``[texts, length]``, for the place of the largest element.

        Raises:
            CalibrationError: when it is empty or holds NaN or infinity.
        """
        statistics = TensorStatistics.of(name, values)
        rows = values.reshape(-1, values.shape[-1])
        low, high = rows.min(axis=0), rows.max(axis=0)
        return cls(
            statistics=statistics,
            low=low.astype(np.float32),
            high=high.astype(np.float32),
            histogram=Histogram.of(values, statistics.absmax),
            reservoir=Reservoir.of(
                rows,
                np.resize(keys, len(rows)),
                capacity,
                None if beside is None else beside.reservoir,
            ),
            peak=_peak(values, np.maximum(-low, high), ids, beside),
        )

    @property
    def outlier(self) -> Outlier:
        """The largest element against the median channel."""
        return Outlier.of(self.peak, np.maximum(-self.low, self.high))

    def merge(self, other: TensorProfile) -> TensorProfile:
        """The profile of both together."""
        return TensorProfile(
            statistics=self.statistics.merge(other.statistics),
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            histogram=self.histogram.merge(other.histogram),
            reservoir=self.reservoir.merge(other.reservoir),
            peak=self.peak.merge(other.peak),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorProfile):
            return NotImplemented
        return (
            (self.statistics, self.peak) == (other.statistics, other.peak)
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
            and self.histogram == other.histogram
            and self.reservoir == other.reservoir
        )

    def __hash__(self) -> int:
        return hash((self.statistics, self.peak, self.histogram, self.reservoir))


def _peak(
    values: Array,
    reach: NDArray[np.floating],
    ids: TokenRows | None,
    beside: TensorProfile | None,
) -> Peak:
    """The peak of one batch, or of what it is merged with when that is larger."""
    if beside is not None and abs(beside.peak.value) > reach.max():
        return beside.peak
    return Peak.of(values, reach, ids)
