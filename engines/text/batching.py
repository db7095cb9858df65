"""How many texts go through an engine at once, and which ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError
from ...graph.tensors import ShapeProfile, TensorSpec

Indices = NDArray[np.intp]
Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class BatchBudget:
    """Bounds of one batch.

    Attributes:
        max_batch: texts.
        max_tokens: texts times the longest of them, padding included; a single text may exceed it.
    """

    max_batch: int
    max_tokens: int


CPU_BUDGET = BatchBudget(64, 512)
"""Measured on MiniLM, 2 threads, log-normal lengths: 512 padded tokens cost 8.4 CPU-ms a text, 2048
cost 9.9, batches of 32 in arrival order 33.0: bigger batches leave the cache."""

GPU_BUDGET = BatchBudget(256, 16384)

BUDGETS: Mapping[str, BatchBudget] = {"ort-cpu": CPU_BUDGET}
"""Default by target; every other target runs on a GPU and takes `GPU_BUDGET`."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """What the engine accepts: smallest and largest batch and sequence; None means any.

    Attributes:
        min_batch: texts; a smaller batch is filled up with copies.
        max_batch: texts.
        min_sequence: tokens; shorter texts are padded up to it.
        max_sequence: tokens; longer texts are cut.
        buckets: widths that texts are padded to, ascending; wider ones keep their width.
        profiles: of an engine that takes less texts the longer they are: the least tokens, the
            most tokens and the most texts of each profile.
        planner: of an engine that packs texts itself: lengths to the texts of each call; it takes
            the place of the budget.
    """

    min_batch: int = 1
    max_batch: int | None = None
    min_sequence: int = 1
    max_sequence: int | None = None
    buckets: tuple[int, ...] = ()
    profiles: tuple[tuple[int, int, int], ...] = ()
    planner: Callable[[Lengths], list[Indices]] | None = None

    @classmethod
    def of(
        cls,
        spec: TensorSpec,
        profile: ShapeProfile | None,
        *,
        profiles: Sequence[ShapeProfile] = (),
        buckets: tuple[int, ...] = (),
    ) -> BatchLimits:
        """Read them from an input [batch, sequence] and what its engine was built for.

        Args:
            spec: the input.
            profile: the range of all sizes; None when the engine takes any.
            profiles: ranges that the engine takes as a whole; empty for `profile` alone.
            buckets: see the attribute.

        Raises:
            BundleError: when the input has another rank.
        """
        if len(spec.dims) != 2:
            raise BundleError(
                f"engine input {spec}: expected the dims [batch, sequence]; "
                "a text runtime cannot feed it"
            )
        axes = profile.axes if profile is not None else {}
        several = profiles if len(profiles) > 1 and set(spec.dims) <= set(axes) else ()
        parts = [[part.axes[str(dim)] for dim in spec.dims] for part in several]
        (min_batch, max_batch), (min_sequence, max_sequence) = (
            _range(axes, dim) if isinstance(dim, str) else (dim, dim) for dim in spec.dims
        )
        return cls(
            min_batch=max([min_batch, *(texts[0] for texts, _ in parts)]),
            max_batch=max_batch,
            min_sequence=min_sequence,
            max_sequence=max_sequence,
            buckets=buckets,
            profiles=tuple((tokens[0], tokens[2], texts[2]) for texts, tokens in parts),
        )

    def widths(self, lengths: Lengths) -> Lengths:
        """What texts of these lengths are padded to when each is alone [texts]."""
        least = np.maximum(lengths, self.min_sequence)
        if not self.buckets:
            return least
        grid = np.asarray(self.buckets, np.int64)
        at = np.searchsorted(grid, least)
        return np.where(at < grid.size, grid[np.minimum(at, grid.size - 1)], least)

    def most_rows(self, width: int, budget: BatchBudget) -> int:
        """Texts of this width that one batch may have."""
        rows = min(budget.max_batch, budget.max_tokens // width)
        own = [most for least, longest, most in self.profiles if least <= width <= longest]
        return max(self.min_batch, min(rows, max(own, default=rows)))


def _range(axes: Mapping[str, tuple[int, int, int]], name: str) -> tuple[int, int | None]:
    if name not in axes:
        return 1, None
    low, _, high = axes[name]
    return low, high


_ANY = BatchLimits()


def batches(lengths: Lengths, budget: BatchBudget, limits: BatchLimits = _ANY) -> list[Indices]:
    """Sort by length and cut into batches, the longest texts first.

    Args:
        lengths: tokens of each text [texts].
        budget: bounds of a batch.
        limits: of the engine; a batch may exceed the token budget up to the least batch.

    Returns:
        Indices into lengths; together every index once.
    """
    if limits.planner is not None:
        return limits.planner(lengths)
    order = np.argsort(-lengths, kind="stable")
    result, first = [], 0
    while first < order.size:
        rows = limits.most_rows(int(lengths[order[first]]), budget)
        result.append(order[first : first + rows])
        first += rows
    return result
