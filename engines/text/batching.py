"""How many texts go through an engine at once, and which ones."""

from __future__ import annotations

from collections.abc import Mapping
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
    """

    min_batch: int = 1
    max_batch: int | None = None
    min_sequence: int = 1
    max_sequence: int | None = None

    @classmethod
    def of(cls, spec: TensorSpec, profile: ShapeProfile | None) -> BatchLimits:
        """Read them from an input [batch, sequence] and the profile its engine was built for.

        Raises:
            BundleError: when the input has another rank.
        """
        if len(spec.dims) != 2:
            raise BundleError(
                f"engine input {spec}: expected the dims [batch, sequence]; "
                "a text runtime cannot feed it"
            )
        axes = profile.axes if profile is not None else {}
        (min_batch, max_batch), (min_sequence, max_sequence) = (
            _range(axes, dim) if isinstance(dim, str) else (dim, dim) for dim in spec.dims
        )
        return cls(
            min_batch=min_batch,
            max_batch=max_batch,
            min_sequence=min_sequence,
            max_sequence=max_sequence,
        )


def _range(axes: Mapping[str, tuple[int, int, int]], name: str) -> tuple[int, int | None]:
    if name not in axes:
        return 1, None
    low, _, high = axes[name]
    return low, high


def batches(lengths: Lengths, budget: BatchBudget, min_batch: int = 1) -> list[Indices]:
    """Sort by length and cut into batches, the longest texts first.

    Args:
        lengths: tokens of each text [texts].
        budget: bounds of a batch.
        min_batch: a batch may exceed the token budget up to this many texts.

    Returns:
        Indices into lengths; together every index once.
    """
    order = np.argsort(-lengths, kind="stable")
    result, first = [], 0
    while first < order.size:
        width = int(lengths[order[first]])
        rows = min(budget.max_batch, max(min_batch, budget.max_tokens // width))
        result.append(order[first : first + rows])
        first += rows
    return result
