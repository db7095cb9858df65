"""Bucket edges for a histogram of lengths: the fewest padded tokens that so many edges allow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ...errors import BuildError

Totals = NDArray[np.float64]


def padded_tokens(counts: Mapping[int, int], edges: tuple[int, ...]) -> int:
    """Tokens of all texts when each one is padded to the smallest edge that holds it.

    Args:
        counts: length in tokens -> texts of that length.
        edges: ascending; the last one holds the longest text.
    """
    grid = np.asarray(edges)
    held = grid[np.searchsorted(grid, list(counts))] if counts else np.zeros(0, np.int64)
    return int(held @ np.asarray(list(counts.values()), np.int64)) if counts else 0


def best_edges(
    counts: Mapping[int, int], candidates: tuple[int, ...], *, most: int, slack: float = 0.0
) -> tuple[int, ...]:
    """The edges that pad least, by dynamic programming over the histogram; exact.

    With the candidates c(1) < ... < c(n) and F(i) texts of at most c(i) tokens, the least padded
    tokens of the texts up to c(j) with k edges, the last of them c(j), are

        T(k, j) = min over i < j of  T(k-1, i) + c(j) * (F(j) - F(i)),   T(0, 0) = 0.

    The answer is read backwards from T(k, n). A candidate below which no text lies that the one
    before it does not hold is never an optimal edge, so n is at most the number of distinct
    lengths, plus one. Costs O(most * n^2) time in numpy rows and O(most * n) memory.

    Args:
        counts: length in tokens -> texts of that length.
        candidates: where an edge may be, ascending; the last is an edge in any case, because the
            engine must take its length.
        most: edges at most.
        slack: take fewer edges when they pad at most this share more than `most` edges do.

    Returns:
        At most `most` edges, ascending.

    Raises:
        BuildError: on no candidate, or a text longer than the last one.
    """
    if most < 1 or not candidates or max(counts, default=0) > candidates[-1]:
        raise BuildError(
            f"bucket edges: expected at least 1 edge and candidates that reach the longest text "
            f"({max(counts, default=0)} tokens), got {most} edges and {candidates[-1:]}"
        )
    edges, below = _useful(counts, candidates)
    totals, before = _solve(edges, below, min(most, len(edges)))
    last = totals[:, -1]
    count = int(np.flatnonzero(last <= last.min() * (1 + slack))[0])
    return _read_back(edges, before, count)


def _useful(
    counts: Mapping[int, int], candidates: tuple[int, ...]
) -> tuple[NDArray[np.int64], Totals]:
    """Candidates that hold a text the one before does not, and the last; texts up to each."""
    lengths = np.array(sorted(counts), np.int64)
    texts = np.concatenate([[0], np.cumsum([counts[length] for length in sorted(counts)])])
    below = texts[np.searchsorted(lengths, candidates, side="right")].astype(np.float64)
    keep = np.diff(below, prepend=0.0) > 0
    keep[-1] = True
    return np.asarray(candidates, np.int64)[keep], below[keep]


def _solve(edges: NDArray[np.int64], below: Totals, most: int) -> tuple[Totals, NDArray[np.int64]]:
    """T(k, j) and the i that attains it, for k in 0..most and j in 0..n."""
    size = len(edges)
    held = np.concatenate([[0.0], below])
    totals = np.full((most + 1, size + 1), np.inf)
    before = np.zeros((most + 1, size + 1), np.int64)
    totals[0, 0] = 0.0
    for count in range(1, most + 1):
        for last in range(count, size + 1):
            row = totals[count - 1, :last] + edges[last - 1] * (held[last] - held[:last])
            before[count, last] = row.argmin()
            totals[count, last] = row[before[count, last]]
    return totals, before


def _read_back(edges: NDArray[np.int64], before: NDArray[np.int64], count: int) -> tuple[int, ...]:
    found = []
    last = len(edges)
    for left in range(count, 0, -1):
        found.append(int(edges[last - 1]))
        last = int(before[left, last])
    return tuple(reversed(found))
