"""Whether text that calibration did not see stays within the ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...graph.model import Graph
from ...graph.tensors import Array
from ...passes.qdq.params import QMAX, SCALE_FLOOR
from ..session import GraphSession
from ..table import CalibrationTable, TensorRange
from ..text.batches import Batch

_HALF_STEP = 0.5 / QMAX
"""So much beyond the range is rounded into it without more error than inside."""


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """How one activation, smoothed as it will be, uses its range.

    Attributes:
        reach: largest magnitude over the largest that INT8 represents; above 1 it was clipped.
        clip_rate: part of the elements that lies beyond the range by more than half a step.
        elements: how many were looked at.
    """

    reach: float
    clip_rate: float
    elements: int


def measure_headroom(
    graph: Graph, table: CalibrationTable, batches: Sequence[Batch], *, threads: int = 0
) -> dict[str, Headroom]:
    """Run the float graph on text the ranges do not come from, and look at every activation.

    Args:
        graph: the float graph that was calibrated.
        table: its ranges.
        batches: of texts; all activations of one batch are held at a time.
        threads: CPU threads, 0 for all physical cores.

    Returns:
        By name of the activation, in the table's order; empty without batches.

    Raises:
        CalibrationError: when an activation is NaN or infinite.
    """
    names = tuple(table.ranges)
    counts = {name: _Count() for name in names}
    if not batches:
        return {}
    with GraphSession(graph, names, threads) as session:
        for batch in batches:
            outputs = session.run(batch.feeds, names)
            for name in names:
                counts[name] = counts[name].add(_look(name, outputs.pop(name), table.ranges[name]))
    return {name: count.headroom() for name, count in counts.items()}


def most_clipped(found: Mapping[str, Headroom]) -> tuple[str, Headroom] | None:
    """The activation of which most is clipped, None when nothing was looked at."""
    return max(found.items(), key=lambda item: item[1].clip_rate, default=None)


@dataclass(frozen=True)
class _Count:
    reach: float = 0.0
    clipped: int = 0
    elements: int = 0

    def add(self, other: _Count) -> _Count:
        return _Count(
            max(self.reach, other.reach),
            self.clipped + other.clipped,
            self.elements + other.elements,
        )

    def headroom(self) -> Headroom:
        rate = self.clipped / max(1, self.elements)
        return Headroom(reach=self.reach, clip_rate=rate, elements=self.elements)


def _look(name: str, values: Array, found: TensorRange) -> _Count:
    rows = values.reshape(-1, values.shape[-1])
    low, high = (_changed(extreme, found) for extreme in (rows.min(axis=0), rows.max(axis=0)))
    largest = float(max(-low.min(), high.max()))
    if not np.isfinite(largest):
        raise CalibrationError(
            f"tensor {name!r}: held-out text makes it NaN or infinite; check the model in float32"
        )
    amax = max(found.amax, QMAX * SCALE_FLOOR)
    bound = amax * (1 + _HALF_STEP)
    # Most tensors stay within their range: the extrema of the channels tell without a copy.
    beyond = np.flatnonzero((high > bound) | (low < -bound))
    clipped = np.abs(_changed(rows, found)[:, beyond]) > bound if beyond.size else np.zeros(1)
    return _Count(largest / amax, int(np.count_nonzero(clipped)), rows.size)


def _changed(x: Array, found: TensorRange) -> NDArray[np.float32]:
    """The tensor, or extrema of its channels, as the linears will read it."""
    values = x.astype(np.float32, copy=False)
    if found.smoothing is None:
        return values
    transform = found.smoothing.transform
    return np.asarray(values / transform.scale - transform.shift, np.float32)
