"""A histogram of magnitudes that grows with what it sees and merges without loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array

BINS = 2048
_LEAST_EXPONENT = -100
"""Smaller numbers fall into the first bin; their reciprocal would not fit float32."""

_CHUNK = 1 << 20
"""Elements looked at together: bounds the temporaries."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of ``|x|`` in `BINS` equal bins over ``0..2**exponent``.

    The range is a power of two. Doubling it adds pairs of neighbouring bins, which moves no element
    across an edge: any order of merging gives the counts of one pass over everything.

    Attributes:
        exponent: the range ends below ``2**exponent``.
        counts: int64 ``[BINS]``.
    """

    exponent: int
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: Array, absmax: float) -> Histogram:
        """Count one batch.

        Args:
            values: finite floats, any shape.
            absmax: their largest magnitude.
        """
        exponent = max(math.frexp(absmax)[1], _LEAST_EXPONENT) if absmax else _LEAST_EXPONENT
        factor = np.float32(2.0 ** (_BITS - exponent))
        counts = np.zeros(BINS, np.int64)
        flat = values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            scaled = np.abs(flat[start : start + _CHUNK], dtype=np.float32)
            scaled *= factor
            counts += np.bincount(scaled.astype(np.int32), minlength=BINS)
        return cls(exponent, counts)

    @property
    def width(self) -> float:
        """Of one bin."""
        return 2.0 ** (self.exponent - _BITS)

    @property
    def edges(self) -> NDArray[np.floating]:
        """``[BINS + 1]``, the first is 0."""
        return np.arange(BINS + 1, dtype=np.float64) * self.width

    @property
    def centres(self) -> NDArray[np.floating]:
        """``[BINS]``."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * self.width

    def grown(self, exponent: int) -> Histogram:
        """The same elements over a range that is as large or larger."""
        counts = self.counts
        for _ in range(min(exponent - self.exponent, _BITS)):
            half = counts.reshape(-1, 2).sum(axis=1)
            counts = np.concatenate([half, np.zeros_like(half)])
        if exponent - self.exponent > _BITS:  # all in the first bin by now
            counts = np.concatenate([[counts.sum()], np.zeros(BINS - 1, np.int64)])
        return Histogram(exponent, counts)

    def merge(self, other: Histogram) -> Histogram:
        """The elements of both."""
        exponent = max(self.exponent, other.exponent)
        return Histogram(exponent, self.grown(exponent).counts + other.grown(exponent).counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.exponent == other.exponent and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.exponent, self.counts.tobytes()))


_BITS = BINS.bit_length() - 1
