"""What a call of an engine costs, measured, and which length of rows is cheapest by it.

    seconds = call + token * tokens + pair * rows * length^2

The last term is attention, which computes all pairs of a row and throws most of them away, so long
rows cost more a token; the first is what a call costs whatever is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .batching import Lengths
from .packing import PackedCall, RowLimits, packed_calls

ROW_LENGTHS = (64, 96, 128, 192, 256, 384, 512)
"""Tried for a window of texts."""

_REPEATS = 5

_ALIKE, _LITTLE_PADDING = 1.05, 1.03
"""Of choices whose cost is alike within what the line errs by, one with little padding is taken."""


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """The cost of a call.

    Attributes:
        call: seconds of a call.
        token: seconds of a token.
        pair: seconds of a pair of tokens of a row.
    """

    call: float
    token: float
    pair: float

    def of(self, height: int, length: int) -> float:
        """Seconds of a call of so many rows."""
        return self.call + height * length * (self.token + self.pair * length)

    @classmethod
    def fitted(cls, sizes: list[tuple[int, int]], seconds: list[float]) -> RowCost:
        """The line through measurements, by relative error; no part is below 0.

        Args:
            sizes: rows and length of each call.
            seconds: of each call.
        """
        rows = [[1.0, height * length, height * length**2] for height, length in sizes]
        weights = 1 / np.array(seconds)
        design = np.array(rows) * weights[:, None]
        kept = [0, 1, 2]
        while True:
            found, *_ = np.linalg.lstsq(design[:, kept], np.ones(len(sizes)), rcond=None)
            if (found >= 0).all() or len(kept) == 1:
                break
            del kept[int(found.argmin())]
        parts = np.zeros(3)
        parts[kept] = np.maximum(found, 0)
        return cls(call=float(parts[0]), token=float(parts[1]), pair=float(parts[2]))

    @classmethod
    def from_json(cls, values: object) -> RowCost | None:
        """What `to_json` wrote; None for anything else."""
        if not isinstance(values, Mapping) or set(values) != {"call", "token", "pair"}:
            return None
        if not all(isinstance(part, int | float) and part >= 0 for part in values.values()):
            return None
        return cls(**{name: float(part) for name, part in values.items()})

    def to_json(self) -> dict[str, Any]:
        """For ``engine.json``."""
        return {"call": self.call, "token": self.token, "pair": self.pair}


CPU_COST = RowCost(call=3e-4, token=1.1e-4, pair=7e-8)
"""MiniLM on one thread: where an engine has no measurement of its own, as only ratios matter."""

GPU_COST = RowCost(call=4e-4, token=5e-7, pair=2e-10)
"""Not measured: 0.4 ms of a call against 16,384 tokens, attention a tenth of a row of 256."""


def measure(
    run: Callable[[int, int], object],
    sizes: list[tuple[int, int]],
    clock: Callable[[], float] = time.perf_counter,
) -> RowCost:
    """Time calls of several sizes, in turns, and fit the line to the least of each.

    Args:
        run: makes a call of so many rows of a length.
        sizes: rows and lengths.
        clock: seconds; on a CPU those of the process, which others that compute do not lengthen.
    """
    seconds = [float("inf")] * len(sizes)
    for repeat in range(_REPEATS + 1):
        for index, (height, length) in enumerate(sizes):
            start = clock()
            run(height, length)
            if repeat:  # the first call of a size prepares what the others use
                seconds[index] = min(seconds[index], clock() - start)
    return RowCost.fitted(sizes, seconds)


@dataclass(frozen=True)
class Choice:
    """How a window of texts is run.

    Attributes:
        calls: every text once.
        row_length: tokens of a row; 0 where every text has a row of its own.
        seconds: by the cost line.
    """

    calls: list[PackedCall]
    row_length: int
    seconds: float

    @property
    def tokens(self) -> int:
        """What is computed, padding included."""
        return sum(call.tokens for call in self.calls)


def chosen(lengths: Lengths, row_length: int, limits: RowLimits, cost: RowCost) -> Choice:
    """Pack texts into rows of a given length; see `packed_calls`."""
    calls = packed_calls(lengths, row_length, limits)
    seconds = sum(cost.of(call.height, call.length) for call in calls)
    return Choice(calls, row_length, seconds)


def cheapest(lengths: Lengths, limits: RowLimits, cost: RowCost) -> Choice:
    """Pack texts in the way that costs least; every text in a row of its own is one of them.

    Args:
        lengths: tokens of each text [texts].
        limits: of a call.
        cost: of the engine.
    """
    row_lengths = (0, *(size for size in ROW_LENGTHS if size <= limits.max_length))
    smaller = replace(limits, max_tokens=max(1, limits.max_tokens // 2))
    choices = [
        chosen(lengths, row_length, own, cost)
        for own in (limits, smaller)
        for row_length in row_lengths
    ]
    best = min(choices, key=lambda choice: choice.seconds)
    enough = int(lengths.sum()) * _LITTLE_PADDING
    close = [
        choice
        for choice in choices
        if choice.tokens <= enough and choice.seconds <= best.seconds * _ALIKE
    ]
    return min(close, key=lambda choice: choice.seconds) if close else best
