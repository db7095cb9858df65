"""Choose how each activation is smoothed: by the error of what its linears compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.qdq.linears import weight_of
from ..passes.qdq.params import QMAX, QuantParams, dequantize, quantize, weight_params
from ..passes.qdq.policy import QuantPlan
from ..passes.qdq.sites import Site, find_site
from .profile import TensorProfile
from .smoothing import Smoothing, smooth

Floats = NDArray[np.float32]

ALPHAS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Tried for each activation. Below, outliers stay where they hurt; at 1 all channels are equal."""

_DEFAULT_ALPHA = 0.9


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


def choose(edge: Edge, profile: TensorProfile, held_out: Floats | None) -> float:
    """The alpha whose INT8 answers are closest to the float ones.

    Args:
        edge: the activation.
        profile: what it held on the texts that give ranges.
        held_out: rows of it from other texts, ``[rows, K]``, None without any.
    """
    if held_out is None:
        return _DEFAULT_ALPHA
    exact = held_out @ edge.weight
    errors = {
        alpha: output_error(edge, held_out, exact, edge.smoothing(profile.low, profile.high, alpha))
        for alpha in ALPHAS
    }
    return min(errors, key=errors.__getitem__)


def output_error(edge: Edge, rows: Floats, exact: Floats, smoothing: Smoothing) -> float:
    """Mean over tokens of the error's energy over the answer's.

    Dividing token by token matters: the energy of [CLS] would hide what happens to all others.

    Args:
        edge: the activation.
        rows: of it, ``[rows, K]``.
        exact: float answers, ``[rows, N]``.
        smoothing: to be tried.
    """
    params, transform = smoothing.params, smoothing.transform
    weight = edge.weight * transform.scale[:, None]
    along = weight_params(weight, 1)
    rounded = dequantize(quantize(weight, along), along)
    codes = _fake(rows / transform.scale - transform.shift, params)
    noise = np.square((codes + transform.shift) @ rounded - exact).sum(axis=1)
    energy = np.square(exact).sum(axis=1)
    return float((noise / np.maximum(energy, 1e-6 * energy.mean() + 1e-30)).mean())


def _fake(x: Floats, params: QuantParams) -> Floats:
    np.divide(x, params.scale, out=x)
    np.rint(x, out=x)
    np.clip(x, -QMAX, QMAX, out=x)
    return np.multiply(x, params.scale, out=x)
