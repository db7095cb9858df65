"""Profiles as named arrays and back, for files without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array
from .extrema import TensorStatistics
from .histogram import BINS, Histogram
from .outlier import Peak
from .profile import TensorProfile
from .reservoir import Reservoir

ARRAYS = (
    "whole", "real", "low", "high", "counts", "keys", "rows", "large_keys", "large_rows",
)  # fmt: skip
"""What a profile consists of."""


def arrays_of(profile: TensorProfile) -> dict[str, Array]:
    """All of a profile; nothing is copied but its numbers."""
    statistics, peak, sample = profile.statistics, profile.peak, profile.reservoir
    whole = (statistics.count, profile.histogram.exponent, sample.capacity)
    return {
        "whole": np.array([*whole, peak.channel, peak.token, peak.position], np.int64),
        "real": np.array([statistics.minimum, statistics.maximum, peak.value], np.float64),
        "low": profile.low,
        "high": profile.high,
        "counts": profile.histogram.counts,
        "keys": sample.keys,
        "rows": sample.rows,
        "large_keys": sample.large_keys,
        "large_rows": sample.large_rows,
    }


def profile_of(arrays: Mapping[str, Array]) -> TensorProfile:
    """The profile that `arrays_of` was given.

    Raises:
        KeyError: when an array is missing.
        ValueError: when one has another type or shape than it must have, or the extrema contradict
            one another.
    """
    numbers = _checked(arrays["whole"], np.int64, (6,)).tolist()
    count, exponent, capacity, channel, token, position = numbers
    minimum, maximum, value = _checked(arrays["real"], np.float64, (3,)).tolist()
    channels = arrays["low"].size
    if not (minimum <= value <= maximum and count > 0 <= channel < channels):
        raise ValueError("extrema that contradict one another")
    kept, large = arrays["keys"].size, arrays["large_keys"].size
    return TensorProfile(
        statistics=TensorStatistics(count=count, minimum=minimum, maximum=maximum),
        low=_checked(arrays["low"], np.float32, (channels,)),
        high=_checked(arrays["high"], np.float32, (channels,)),
        histogram=Histogram(exponent, _checked(arrays["counts"], np.int64, (BINS,))),
        reservoir=Reservoir(
            capacity,
            _checked(arrays["keys"], np.uint64, (kept,)),
            _checked(arrays["rows"], np.float32, (kept, channels)),
            _checked(arrays["large_keys"], np.uint64, (large,)),
            _checked(arrays["large_rows"], np.float32, (large, channels)),
        ),
        peak=Peak(value=value, channel=channel, token=token, position=position),
    )


def _checked(array: Array, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"expected {np.dtype(dtype)}{list(shape)}, got {array.dtype}{list(array.shape)}"
        )
    return array
