"""A sample of rows that is the same whichever order its parts come in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array

Keys = NDArray[np.uint64]

LARGEST_SHARE = 8
"""One row in so many is kept for its size: INT8 ranges are made by few rows, those of [CLS]."""


@dataclass(frozen=True, eq=False)
class Reservoir:
    """At most `capacity` rows drawn at random, and the largest ones beside them.

    Every token of a corpus has a key drawn from seed, text and position (see `row_keys`); the rows
    with the smallest keys are kept, so parts merge in any order to the same sample, and all
    tensors of a model keep the rows of the same tokens.

    Attributes:
        capacity: rows kept at random; a `LARGEST_SHARE`-th of it is kept by size.
        keys: uint64 ``[rows]``, ascending.
        rows: float32 ``[rows, channels]``.
        large_keys: uint64 ``[large]``, of the rows with the largest magnitudes, largest first.
        large_rows: float32 ``[large, channels]``.
    """

    capacity: int
    keys: Keys
    rows: NDArray[np.float32]
    large_keys: Keys
    large_rows: NDArray[np.float32]

    @classmethod
    def of(
        cls, rows: Array, keys: Keys, capacity: int, beside: Reservoir | None = None
    ) -> Reservoir:
        """Draw from one batch.

        Args:
            rows: float ``[rows, channels]``.
            keys: ``[rows]``.
            capacity: rows to keep at random.
            beside: what the result will be merged with; rows that would be dropped then are left
                out at once.
        """
        chosen = _smallest(keys, capacity)
        sizes = _sizes(rows)
        large = _largest(keys, sizes, capacity)
        if beside is not None and len(beside.keys) == capacity:
            chosen = chosen[keys[chosen] <= beside.keys[-1]]
        if beside is not None and len(beside.large_keys) == _large(capacity):
            large = large[sizes[large] >= _sizes(beside.large_rows[-1:])]
        return cls(
            capacity,
            keys[chosen],
            rows[chosen].astype(np.float32, copy=False),
            keys[large],
            rows[large].astype(np.float32, copy=False),
        )

    def merge(self, other: Reservoir) -> Reservoir:
        """The sample of both together."""
        keys, rows = self.keys, self.rows
        if other.keys.size:
            keys, rows = _joined(keys, other.keys), _joined(rows, other.rows)
            chosen = _smallest(keys, self.capacity)
            keys, rows = keys[chosen], rows[chosen]
        large_keys, large_rows = self.large_keys, self.large_rows
        if other.large_keys.size:
            large_keys = _joined(large_keys, other.large_keys)
            large_rows = _joined(large_rows, other.large_rows)
            chosen = _largest(large_keys, _sizes(large_rows), self.capacity)
            large_keys, large_rows = large_keys[chosen], large_rows[chosen]
        return Reservoir(self.capacity, keys, rows, large_keys, large_rows)

    @property
    def sample(self) -> NDArray[np.float32]:
        """All rows kept, each once, ``[rows, channels]``."""
        extra = ~np.isin(self.large_keys, self.keys)
        return np.concatenate([self.rows, self.large_rows[extra]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reservoir):
            return NotImplemented
        return (
            self.capacity == other.capacity
            and np.array_equal(self.keys, other.keys)
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.large_keys, other.large_keys)
            and np.array_equal(self.large_rows, other.large_rows)
        )

    def __hash__(self) -> int:
        return hash((self.capacity, self.keys.tobytes(), self.large_keys.tobytes()))


def _smallest(keys: Keys, capacity: int) -> NDArray[np.intp]:
    return np.argsort(keys, kind="stable")[:capacity]


def _largest(keys: Keys, sizes: NDArray[Any], capacity: int) -> NDArray[np.intp]:
    """Of rows of equal size, those with the smaller keys."""
    return np.lexsort((keys, -sizes))[: _large(capacity)]


def _joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([first, second])


def _large(capacity: int) -> int:
    return max(1, capacity // LARGEST_SHARE)


def _sizes(rows: NDArray[Any]) -> NDArray[Any]:
    """Largest magnitude in each row; extrema instead of abs, which would copy the batch."""
    sizes: NDArray[Any] = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return sizes


def row_keys(texts: NDArray[np.int64], positions: NDArray[np.int64], seed: int) -> Keys:
    """A random number for each token, by text and position alone.

    Args:
        texts: number of the text of each row, ``[rows]``.
        positions: of the token in its text, below 2**20, ``[rows]``.
        seed: another seed draws another sample.
    """
    with np.errstate(over="ignore"):
        keys = (texts.astype(np.uint64) << np.uint64(20)) + positions.astype(np.uint64)
        keys += np.uint64(seed % 2**32) << np.uint64(44)
        # The finaliser of SplitMix64: a bijection, so keys of different tokens differ.
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return keys ^ (keys >> np.uint64(31))
