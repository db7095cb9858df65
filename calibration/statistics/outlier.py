"""Where the largest element of a tensor is: the channel, the token and its place in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph.tensors import Array

TokenRows = NDArray[Any]
"""Token ids of a batch, integers ``[texts, length]``."""

_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The element with the largest magnitude. Values merge in any order to the same result.

    Of equal magnitudes the one nearest to the start of its text is kept, then the lowest token id,
    then the lowest channel: [CLS] gives the same number in every text.

    Attributes:
        value: with its sign.
        channel: index on the last axis.
        token: id of the token; -1 where rows are not tokens, as behind pooling.
        position: of the token in its text, from 0; -1 likewise.
    """

    value: float
    channel: int
    token: int = _UNKNOWN
    position: int = _UNKNOWN

    @classmethod
    def of(cls, values: Array, reach: NDArray[np.floating], ids: TokenRows | None) -> Peak:
        """Find it in one batch.

        Args:
            values: finite floats ``[..., channels]``.
            reach: largest magnitude of each channel, ``[channels]``.
            ids: token ids ``[texts, length]``, None when they are not known.
        """
        rows = values.reshape(-1, values.shape[-1])
        largest = reach.max()
        channels = np.flatnonzero(reach == largest)
        columns = rows[:, channels]
        hits = (columns == largest) | (columns == -largest)
        found = np.flatnonzero(hits.any(axis=1))
        tokens, positions = _places(values.shape[:-1], ids, found)
        first = np.lexsort((tokens, positions))[0]
        alike = (tokens == tokens[first]) & (positions == positions[first])
        at = int(np.flatnonzero(hits[found[alike]].any(axis=0))[0])
        return cls(
            value=float(columns[found[alike], at][hits[found[alike], at]].max()),
            channel=int(channels[at]),
            token=int(tokens[first]),
            position=int(positions[first]),
        )

    def merge(self, other: Peak) -> Peak:
        """The larger one."""
        return min(self, other, key=Peak._rank)

    def _rank(self) -> tuple[float, int, int, int, float]:
        return (-abs(self.value), self.position, self.token, self.channel, -self.value)


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """The largest element of a tensor and how it stands out.

    Attributes:
        value: with its sign.
        channel: index on the last axis.
        median: largest magnitude of the median channel.
        token: id of the token, None where rows are not tokens, as behind pooling.
        position: of the token in its text, from 0; None likewise.
    """

    value: float
    channel: int
    median: float
    token: int | None = None
    position: int | None = None

    @classmethod
    def of(cls, peak: Peak, reach: NDArray[np.floating]) -> Outlier:
        """Set a peak against the largest magnitude of each channel, ``[channels]``."""
        known = peak.position != _UNKNOWN
        return cls(
            value=peak.value,
            channel=peak.channel,
            median=float(np.median(reach)),
            token=peak.token if known else None,
            position=peak.position if known else None,
        )


def _places(
    shape: tuple[int, ...], ids: TokenRows | None, rows: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token and position of these rows of a tensor whose axes but the last are `shape`."""
    if ids is None or shape not in (ids.shape, (ids.size,)):
        unknown = np.full(len(rows), _UNKNOWN, np.int64)
        return unknown, unknown
    return ids.reshape(-1)[rows].astype(np.int64), (rows % ids.shape[1]).astype(np.int64)
