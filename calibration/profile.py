"""Everything calibration keeps of one tensor while text streams by, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..graph.tensors import Array
from .histogram import Histogram
from .reservoir import Keys, Reservoir
from .statistics import TensorStatistics


@dataclass(frozen=True, kw_only=True)
class TensorProfile:
    """Extrema, histogram and sample of everything a tensor held. Values merge in any order.

    Attributes:
        statistics: extrema of the whole tensor.
        low: smallest element of each channel, float32 ``[channels]``.
        high: largest element of each channel.
        histogram: of magnitudes.
        reservoir: rows of it.
    """

    statistics: TensorStatistics
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    histogram: Histogram
    reservoir: Reservoir

    @classmethod
    def of(
        cls,
        name: str,
        values: Array,
        keys: Keys,
        capacity: int,
        beside: TensorProfile | None = None,
    ) -> TensorProfile:
        """Look at one batch.

        Args:
            name: of the tensor, for the error.
            values: float ``[..., channels]``, without padding.
            keys: of each token, ``[tokens]``; with another number of rows, rows take the first.
            capacity: rows to keep.
            beside: what the result will be merged with, which saves copying rows in vain.

        Raises:
            CalibrationError: when it is empty or holds NaN or infinity.
        """
        statistics = TensorStatistics.of(name, values)
        rows = values.reshape(-1, values.shape[-1])
        return cls(
            statistics=statistics,
            low=rows.min(axis=0).astype(np.float32),
            high=rows.max(axis=0).astype(np.float32),
            histogram=Histogram.of(values, statistics.absmax),
            reservoir=Reservoir.of(
                rows,
                np.resize(keys, len(rows)),
                capacity,
                None if beside is None else beside.reservoir,
            ),
        )

    def merge(self, other: TensorProfile) -> TensorProfile:
        """The profile of both together."""
        return TensorProfile(
            statistics=self.statistics.merge(other.statistics),
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            histogram=self.histogram.merge(other.histogram),
            reservoir=self.reservoir.merge(other.reservoir),
        )
