"""Fit what each class of nodes costs on this machine: time = sum of c_i v_i, no c below 0.

Nodes of a class share their coefficients. A class is an operator, for a product its weight's
dims, and the operator that ran before, which decides whether the other threads are still awake
and what lies in the caches: on two cores the same product takes 63 us behind a product and 77 us
behind an addition. The terms v of a class are few, so that three shapes determine them:

    products with a constant    operations, 1
    other products, attention   operations, bytes, 1
    what moves nothing          1
    everything else             bytes, 1

The error that is least is the relative one, so a node of 5 us counts like one of 5 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError, MissingPackageError
from .counting import GraphCost, NodeCost

Sizes = Mapping[str, int]
NodeTimes = Sequence[float | None]
"""Seconds of every node of a graph in its order; None for those that do not run."""

Class = tuple[str, ...]

_TERMS: Mapping[str, tuple[str, ...]] = {
    "product": ("flops", "1"),
    "attention": ("flops", "bytes", "1"),
    "view": ("1",),
}
_LEAST_SECONDS = 1e-6
"""Resolution of the profiler: no relative error is asked for below it."""


@dataclass(frozen=True)
class ClassCost:
    """What a class costs.

    Attributes:
        terms: ``flops``, ``bytes`` and ``1``, the constant.
        seconds: of one unit of each term.
    """

    terms: tuple[str, ...]
    seconds: tuple[float, ...]

    def of(self, flops: float, moved: float) -> float:
        """Seconds of a node."""
        values = {"flops": flops, "bytes": moved, "1": 1.0}
        return sum(values[t] * c for t, c in zip(self.terms, self.seconds, strict=True))


@dataclass(frozen=True)
class Fit:
    """A machine's costs for the nodes of one graph.

    Attributes:
        classes: coefficients of each class.
        between: seconds a node that the whole takes beyond its kernels. It is negative where the
            profiler makes kernels slower than they are when nobody looks.
        shapes: texts of the shapes it was fitted on.
    """

    classes: Mapping[Class, ClassCost]
    between: float
    shapes: tuple[str, ...]

    def nodes(self, cost: GraphCost, sizes: Sizes) -> list[float | None]:
        """Predicted seconds of every node; None for those that did not run when it was fitted."""
        names = classes_of(cost)
        return [
            None if (found := self.classes.get(name)) is None else found.of(*_measure(node, sizes))
            for name, node in zip(names, cost.nodes, strict=True)
        ]

    def whole(self, cost: GraphCost, sizes: Sizes) -> float:
        """Predicted seconds of one call."""
        kernels = [time for time in self.nodes(cost, sizes) if time is not None]
        return sum(kernels) + self.between * len(kernels)


@dataclass(frozen=True)
class Observation:
    """What was measured at one shape.

    Attributes:
        shape: as text.
        sizes: of the dynamic axes.
        nodes: seconds of each node, None where it does not run.
        whole: seconds of a call without the profiler.
        runs: how many calls were measured.
    """

    shape: str
    sizes: Sizes
    nodes: NodeTimes
    whole: float
    runs: int = 1


def fit(cost: GraphCost, observed: Sequence[Observation]) -> Fit:
    """Fit all classes of a graph, then what lies between nodes.

    Raises:
        CalibrationError: when nothing was observed.
        MissingPackageError: when scipy is not installed.
    """
    if not observed or all(time is None for o in observed for time in o.nodes):
        raise CalibrationError("a cost model needs timings of at least one shape, got none")
    names = classes_of(cost)
    classes: dict[Class, ClassCost] = {}
    for name in dict.fromkeys(names):
        members = [index for index, other in enumerate(names) if other == name]
        rows = [
            (*_measure(cost.nodes[index], o.sizes), time)
            for o in observed
            for index in members
            if (time := o.nodes[index]) is not None
        ]
        if rows:
            classes[name] = _fitted(_terms(cost.nodes[members[0]]), np.array(rows))
    kernels = Fit(classes, 0.0, tuple(o.shape for o in observed))
    return Fit(classes, _between(cost, kernels, observed), kernels.shapes)


def classes_of(cost: GraphCost) -> list[Class]:
    """The class of every node."""
    names = []
    before = "start"
    for node in cost.nodes:
        weight = (str(list(node.weight)),) if node.weight else ()
        names.append((node.op, *weight, f"behind {before}"))
        before = node.op
    return names


def _terms(node: NodeCost) -> tuple[str, ...]:
    if node.kind == "product" and not node.weight:
        return ("flops", "bytes", "1")
    return _TERMS.get(node.kind, ("bytes", "1"))


def _measure(node: NodeCost, sizes: Sizes) -> tuple[float, float]:
    return float(node.flops.at(sizes)), float(node.moved_bytes.at(sizes))


def _fitted(terms: tuple[str, ...], rows: NDArray[np.float64]) -> ClassCost:
    columns = {"flops": rows[:, 0], "bytes": rows[:, 1], "1": np.ones(len(rows))}
    values = np.stack([columns[term] for term in terms], axis=1)
    weights = 1 / np.maximum(rows[:, 2], _LEAST_SECONDS)
    scale = np.maximum(np.abs(values).max(axis=0), 1e-30)
    solved = non_negative(values / scale * weights[:, None], rows[:, 2] * weights)
    return ClassCost(terms, tuple(float(c) for c in solved / scale))


def non_negative(values: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients of at least 0 with the least squared error.

    Raises:
        MissingPackageError: when scipy is not installed.
    """
    try:
        from scipy.optimize import nnls
    except ImportError as error:
        raise MissingPackageError("scipy", "proof", "fitting a cost model") from error
    solved: NDArray[np.float64] = nnls(values, wanted)[0]
    return solved


def _between(cost: GraphCost, kernels: Fit, observed: Sequence[Observation]) -> float:
    """Least squares of the relative error, in one unknown of either sign."""
    above, below = 0.0, 0.0
    for o in observed:
        count = sum(time is not None for time in o.nodes)
        slope = count / o.whole
        above += slope * (o.whole - kernels.whole(cost, o.sizes)) / o.whole
        below += slope * slope
    return above / below if below else 0.0
