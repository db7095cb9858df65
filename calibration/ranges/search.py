"""Choose how each activation is smoothed: by the error of what its linears compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...passes.qdq.linears import has_bias, weight_of
from ...passes.qdq.params import QMAX, QuantParams, dequantize, quantize, weight_params
from ...passes.qdq.policy import QuantPlan
from ...passes.qdq.sites import Site, find_site
from ..statistics.histogram import Histogram
from ..statistics.profile import TensorProfile
from .estimators import ESTIMATORS, AbsoluteMaximum
from .smoothing import Moments, Smoothing, loudness, smooth

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
        biased: whether all readers have a bias, so that a constant in their answers costs nothing.
    """

    name: str
    site: Site
    weight: Floats = field(repr=False)
    biased: bool = True

    def moments(self, profile: TensorProfile) -> Moments:
        """Of what a profile saw."""
        # A shift makes a bias where there is none.
        centred = self.biased or self.site.shift != "none"
        return Moments.of(profile.reservoir.rows, self.weight, centred=centred)

    def smoothing(self, profile: TensorProfile, moments: Moments, alpha: float) -> Smoothing:
        """Smooth for everything a profile saw."""
        low, high, site = profile.low, profile.high, self.site
        return smooth(
            low, high, self.weight, alpha, shift=site.shift, moments=moments, tied=site.tied
        )


def edges_of(model: ir.Model, plan: QuantPlan) -> Iterator[Edge]:
    """One after the other, so that only one copy of weights exists at a time."""
    values = ir.convenience.create_value_mapping(model.graph)
    nodes = {node.outputs[0].name: node for node in model.graph}
    for name in plan.activations:
        readers = [nodes[item.output] for item in plan.linears if item.activation == name]
        weight = np.concatenate([weight_of(reader) for reader in readers], axis=1)
        site, biased = find_site(values[name], readers), all(map(has_bias, readers))
        yield Edge(name=name, site=site, weight=weight, biased=biased)


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
        whole = edge.smoothing(profile, edge.moments(profile), self.alpha)
        return whole if self.part == 1 else whole.clipped(self.part)


def choose(edge: Edge, profile: TensorProfile, held_out: Floats) -> Choice:
    """What keeps the INT8 answers closest to the float ones.

    Args:
        edge: the activation.
        profile: what it held on the texts that give ranges.
        held_out: rows of it from other texts, ``[rows, K]``.
    """
    exact, moments = held_out @ edge.weight, edge.moments(profile)
    smoothings = {alpha: edge.smoothing(profile, moments, alpha) for alpha in ALPHAS}
    trials = {alpha: _Trial(edge, whole, held_out, exact) for alpha, whole in smoothings.items()}
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

    def __init__(self, edge: Edge, whole: Smoothing, rows: Floats, exact: Floats) -> None:
        self.whole = whole
        weight = edge.weight * whole.scale[:, None]
        along = weight_params(weight, 1)
        self._weight = dequantize(quantize(weight, along), along)
        self._rows = rows / whole.scale
        # The bias makes up for what rounded weights do to the mean.
        self._wanted = exact + (whole.mean / whole.scale) @ (self._weight - weight)
        self._energy = loudness(exact)

    def error(self, smoothing: Smoothing) -> float:
        """Mean over tokens of the error's energy over the answer's.

        Dividing token by token matters: the energy of [CLS] would hide what happens to all others.
        """
        shift = smoothing.transform.shift
        codes = _fake(self._rows - shift, smoothing.params)
        noise = np.square((codes + shift) @ self._weight - self._wanted).sum(axis=1)
        return float((noise / self._energy).mean())

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
