"""How far a fit is off at shapes it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ...calibration.metrics.spearman import spearman
from .counting import GraphCost
from .fitting import Fit, Observation


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Prediction against measurement.

    Attributes:
        shape: as text; ``all`` for the shapes together.
        predicted: seconds of a call.
        measured: seconds of a call, without the profiler.
        kernels: relative error of the sum of all nodes.
        node_median: median relative error of a node.
        spearman: rank correlation over nodes; None for less than three nodes.
    """

    shape: str
    predicted: float
    measured: float
    kernels: float
    node_median: float
    spearman: float | None

    @property
    def error(self) -> float:
        """Relative error of the whole call."""
        return self.predicted / self.measured - 1


def judge(cost: GraphCost, fit: Fit, observed: Observation) -> Verdict:
    """Hold a fit to one observation."""
    return judge_all(cost, fit, [observed], observed.shape)


def judge_all(
    cost: GraphCost, fit: Fit, observed: Sequence[Observation], name: str = "all"
) -> Verdict:
    """Hold a fit to several observations; nodes of all shapes are ranked together."""
    pairs = [
        (said, took)
        for o in observed
        for said, took in zip(fit.nodes(cost, o.sizes), o.nodes, strict=True)
        if said is not None and took is not None
    ]
    said, took = np.array(pairs).reshape(-1, 2).T
    off = np.abs(said - took) / np.maximum(took, 1e-9)
    return Verdict(
        shape=name,
        predicted=sum(fit.whole(cost, o.sizes) for o in observed),
        measured=sum(o.whole for o in observed),
        kernels=float(said.sum() / took.sum() - 1) if len(pairs) else 0.0,
        node_median=float(np.median(off)) if len(pairs) else 0.0,
        spearman=rank_correlation(said, took),
    )


def rank_correlation(left: ArrayLike, right: ArrayLike) -> float | None:
    """Spearman's rank correlation; None for less than three values, or equal ones."""
    one, two = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if len(one) < 3 or not np.ptp(one) or not np.ptp(two):
        return None
    return spearman(one, two)
