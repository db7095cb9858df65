"""Which texts share a row: first-fit decreasing, by counts of lengths.

Texts of one length are alike, so rows are filled from a histogram: each takes the longest texts
that still fit, which is what first-fit decreasing puts into its first row.
The rows of the last call are made as short as they can be without one more.

Source: Johnson, "Near-optimal bin packing algorithms" (1973); the shortening of the last rows is
MULTIFIT of Coffman, Garey and Johnson (1978).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain
from operator import neg

import numpy as np

from .batching import Indices, Lengths


@dataclass(frozen=True, kw_only=True)
class PackedCall:
    """The texts of one engine call and where each stands.

    Attributes:
        texts: indices [texts].
        rows: row of each [texts].
        slots: how many stand before it in its row [texts].
        starts: column of its first token [texts].
        height: number of rows.
        length: tokens of a row.
    """

    texts: Indices
    rows: Indices
    slots: Indices
    starts: Indices
    height: int
    length: int

    @property
    def width(self) -> int:
        """Texts of the fullest row."""
        return int(self.slots.max()) + 1

    @property
    def tokens(self) -> int:
        """What the engine computes, padding included."""
        return self.height * self.length


@dataclass(frozen=True, kw_only=True)
class RowLimits:
    """What one call may be.

    Attributes:
        max_tokens: rows times their length; a single row may exceed it.
        max_rows: of a call.
        max_length: of a row.
        max_slots: texts of a row.
    """

    max_tokens: int
    max_rows: int = 1 << 30
    max_length: int = 1 << 30
    max_slots: int = 1 << 30

    def rows(self, length: int) -> int:
        """Rows of this length that one call takes."""
        return max(1, min(self.max_rows, self.max_tokens // length))


def packed_calls(lengths: Lengths, row_length: int, limits: RowLimits) -> list[PackedCall]:
    """Put texts into rows of one length, and longer texts into rows as long as they are.

    Args:
        lengths: tokens of each text [texts], at least 1 and at most `limits.max_length`.
        row_length: tokens of a row; 0 gives every text a row of its own.
        limits: of a call.

    Returns:
        Calls that together have every text once, the longest rows first.
    """
    order = np.argsort(-lengths, kind="stable")
    shelf = _Shelf.of(lengths[order])
    calls = []
    while shelf.longest:
        length = min(max(row_length, shelf.longest), limits.max_length)
        slots = limits.max_slots if row_length else 1
        rows: list[Row] = []
        while shelf.longest and len(rows) < limits.rows(length):
            rows.append(shelf.take(length, slots))
        if not shelf.longest and slots > 1:
            rows, length = _shortened(rows, lengths[order], length, slots)
        calls.append(_placed(rows, order, lengths, length))
    return calls


Row = list[int]
"""Places of texts in their descending order."""


@dataclass
class _Shelf:
    """Texts that are not in a row yet, by length.

    Attributes:
        sizes: distinct lengths, descending.
        ends: of each, the place behind its last text.
        counts: of each, the texts that are left; they are the last ones.
        first: index of the longest that may be left.
    """

    sizes: list[int]
    ends: list[int]
    counts: list[int]
    first: int = 0

    @classmethod
    def of(cls, descending: Lengths) -> _Shelf:
        """All texts, by their lengths in descending order."""
        sizes, counts = np.unique(-descending, return_counts=True)
        return cls((-sizes).tolist(), np.cumsum(counts).tolist(), counts.tolist())

    @property
    def longest(self) -> int:
        """Of the texts that are left; 0 when none is."""
        while self.first < len(self.counts) and not self.counts[self.first]:
            self.first += 1
        return self.sizes[self.first] if self.first < len(self.counts) else 0

    def take(self, length: int, slots: int) -> Row:
        """The longest texts that fit into a row one after the other."""
        row: Row = []
        index = bisect_left(self.sizes, -length, self.first, key=neg)
        while index < len(self.sizes) and len(row) < slots:
            size, count = self.sizes[index], self.counts[index]
            taken = min(count, length // size, slots - len(row))
            if taken:
                begin = self.ends[index] - count
                row += range(begin, begin + taken)
                self.counts[index] -= taken
                length -= taken * size
            index = bisect_left(self.sizes, -length, index + 1, key=neg)
        return row


def _shortened(
    rows: list[Row], descending: Lengths, length: int, slots: int
) -> tuple[list[Row], int]:
    """As many rows, each as short as the texts allow: what is packed last seldom fills its rows."""
    places = np.array(sorted(chain.from_iterable(rows)))
    sizes = descending[places]
    low, best = max(int(sizes[0]), -(-int(sizes.sum()) // len(rows))), (rows, length)
    while low < best[1]:
        middle = (low + best[1]) // 2
        shelf = _Shelf.of(sizes)
        tried: list[Row] = []
        while shelf.longest and len(tried) < len(rows):
            tried.append(shelf.take(middle, slots))
        if shelf.longest:
            low = middle + 1
        else:
            best = [places[row].tolist() for row in tried], middle
    return best


def _placed(rows: list[Row], order: Indices, lengths: Lengths, length: int) -> PackedCall:
    counts = np.fromiter(map(len, rows), np.intp, len(rows))
    texts = order[np.fromiter(chain.from_iterable(rows), np.intp, int(counts.sum()))]
    ends = np.cumsum(lengths[texts])
    row_of = np.repeat(np.arange(len(rows)), counts)
    first = np.cumsum(counts) - counts
    before = ends - lengths[texts]
    return PackedCall(
        texts=texts,
        rows=row_of,
        slots=np.arange(texts.size) - first[row_of],
        starts=before - before[first][row_of],
        height=len(rows),
        length=length,
    )
