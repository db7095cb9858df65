"""Recognise layer norms spelled out in primitive operators.

    (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * gain + bias
      ->  LayerNormalization(x, gain, bias)

Gain and bias may be absent.

Source: https://onnx.ai/onnx/operators/onnx__LayerNormalization.html, arXiv 1607.06450 eq. 3-4
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..casts import unwidened
from ..constants import producer
from .spelled_norms import (
    Miss,
    axis_mismatch,
    complete,
    quotient_of,
    replace,
)


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Replace spelled-out layer norms by the operator of opset 17.

    A centred tensor over the root of a mean counts as found; one that is not replaced is refused
    with the first difference met. A gain or bias that is no vector stays behind the operator.
    """

    name = "fuse-layer-norm"
    min_opset = 17

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            centring = None if node.graph is None else _centring(node)
            if centring is None:
                continue
            try:
                rewrites += _fuse(node, *centring)
            except Miss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
        return result(model, rewrites, tuple(refusals))


def _centring(node: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """X and the mean of a Mul or Div that reads ``x - mean(x)``."""
    if node.domain or node.op_type not in ("Mul", "Div"):
        return None
    for value in node.inputs:
        sub = None if value is None else producer(unwidened(value), "Sub")
        x = None if sub is None else sub.inputs[0]
        subtrahend = None if sub is None else sub.inputs[1]
        mean = None if subtrahend is None else producer(unwidened(subtrahend), "ReduceMean")
        if mean is None or x is None or mean.inputs[0] is None:
            continue
        if unwidened(mean.inputs[0]) is unwidened(x):
            return x, mean
    return None


def _fuse(node: ir.Node, x: ir.Value, mean: ir.Node) -> int:
    found = quotient_of(node)
    if found is None:
        return 0
    centred = producer(unwidened(found.numerator), "Sub")
    if centred is None or centred.outputs[0] is not found.base:
        raise Miss(
            f"it divides {found.numerator.name!r} by the root mean square of {found.base.name!r}"
        )
    reason = axis_mismatch(mean)
    if reason is not None:
        raise Miss(f"mean: {reason}")
    replace(complete(found, x, biased=True), "LayerNormalization")
    return 1
