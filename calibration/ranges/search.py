"""Choose how each activation is smoothed: by the error of what its linears compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...passes.qdq.linears import weight_of
from ...passes.qdq.params import QMAX, QuantParams, dequantize, quantize, weight_params
from ...passes.qdq.policy import QuantPlan
from ...passes.qdq.sites import Site, find_site
from ..statistics.histogram import Histogram
from ..statistics.profile import TensorProfile
from .estimators import ESTIMATORS, AbsoluteMaximum
from .smoothing import Smoothing, smooth

Floats = NDArray[np.float32]

ALPHAS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Tried for each activation. Below, outliers stay where they hurt; at 1 all channels are equal."""

_CLIPPING_GAIN = 0.9
"""Clipping has to lower the error by a tenth: it harms text nobody thought of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edge:
    """An activation and the linears that will read it in INT8.

    Attributes:
        name: of the activation.
        site: what its producer can take over.
        weight: the weights of all its readers beside one another, float32 ``[K, N]``.
    """

    name: str
    site: Site
    weight: Floats = field(repr=False)

    def smoothing(self, low: Floats, high: Floats, alpha: float) -> Smoothing:
        """Smooth for these extrema."""
        largest = np.abs(self.weight).max(axis=1)
        site = self.site
        return smooth(low, high, largest, alpha, shift=site.shift, tied=site.tied)


def edges_of(model: ir.Model, plan: QuantPlan) -> Iterator[Edge]:
    """One after the other, so that only one copy of weights exists at a time."""
    values = ir.convenience.create_value_mapping(model.graph)
    nodes = {node.outputs[0].name: node for node in model.graph}
    for name in plan.activations:
        readers = [nodes[item.output] for item in plan.linears if item.activation == name]
        weight = np.concatenate([weight_of(reader) for reader in readers], axis=1)
        yield Edge(name=name, site=find_site(values[name], readers), weight=weight)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one activation is to be smoothed.

    Attributes:
        alpha: strength of the scale.
        estimator: what chose the range, ``absmax`` or the one that clips.
        part: of the whole range that is kept.
    """

    alpha: float = 0.9
    estimator: str = AbsoluteMaximum.name
    part: float = 1.0

    def apply(self, edge: Edge, profile: TensorProfile) -> Smoothing:
        """Smooth for everything a profile saw."""
        whole = edge.smoothing(profile.low, profile.high, self.alpha)
        return whole if self.part == 1 else whole.clipped(self.part)


def choose(edge: Edge, profile: TensorProfile, held_out: Floats) -> Choice:
    """What keeps the INT8 answers closest to the float ones.

    Args:
        edge: the activation.
        profile: what it held on the texts that give ranges.
        held_out: rows of it from other texts, ``[rows, K]``.
    """
    exact = held_out @ edge.weight
    trials = {alpha: _Trial(edge, profile, held_out, exact, alpha) for alpha in ALPHAS}
    errors = {alpha: trial.error(trial.whole) for alpha, trial in trials.items()}
    alpha = min(errors, key=errors.__getitem__)
    best, least = Choice(alpha=alpha), errors[alpha] * _CLIPPING_GAIN
    for name, part in trials[alpha].clips(profile.reservoir.rows):
        error = trials[alpha].error(trials[alpha].whole.clipped(part))
        if error < least:
            best, least = Choice(alpha=alpha, estimator=name, part=part), error
    return best


class _Trial:
    """One strength of smoothing, tried on rows."""

    def __init__(
        self, edge: Edge, profile: TensorProfile, rows: Floats, exact: Floats, alpha: float
    ) -> None:
        self.whole = edge.smoothing(profile.low, profile.high, alpha)
        weight = edge.weight * self.whole.scale[:, None]
        along = weight_params(weight, 1)
        self._weight = dequantize(quantize(weight, along), along)
        self._rows = rows / self.whole.scale
        self._exact = exact

    def error(self, smoothing: Smoothing) -> float:
        """Mean over tokens of the error's energy over the answer's.

        Dividing token by token matters: the energy of [CLS] would hide what happens to all others.
        """
        shift = smoothing.transform.shift
        codes = _fake(self._rows - shift, smoothing.params)
        noise = np.square((codes + shift) @ self._weight - self._exact).sum(axis=1)
        energy = np.square(self._exact).sum(axis=1)
        return float((noise / np.maximum(energy, 1e-6 * energy.mean() + 1e-30)).mean())

    def clips(self, rows: Floats) -> Iterator[tuple[str, float]]:
        """Parts of the range that estimators would keep, by the smoothed rows' histogram."""
        shift = self.whole.transform.shift
        one_sided = bool(self.whole.steps.any()) and self.whole.transform.is_uniform
        values = rows / self.whole.scale - (0 if one_sided else shift)
        reach = self.whole.amax + (abs(float(shift[0])) if one_sided else 0.0)
        absmax = float(np.abs(values).max())
        histogram = Histogram.of(values, absmax)
        for name, estimator in ESTIMATORS.items():
            amax = estimator.amax(histogram, absmax)
            if name != AbsoluteMaximum.name and 0 < amax < reach:
                yield name, 1 - (reach - amax) / (2 if one_sided else 1) / self.whole.amax


def _fake(x: Floats, params: QuantParams) -> Floats:
    np.divide(x, params.scale, out=x)
    np.rint(x, out=x)
    np.clip(x, -QMAX, QMAX, out=x)
    return np.multiply(x, params.scale, out=x)
