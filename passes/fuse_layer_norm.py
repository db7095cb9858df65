"""Recognise LayerNormalization spelled out in primitive operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .constants import array_of, int_attribute, ints_of, scalar_mismatch, scalar_of, static_dim
from .rewrite import RewritePass, RewriteRule


class _LayerNorm(RewriteRule):
    """The equation below, abstract: its spellings differ in the square alone.

        (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * g + b  ->  LayerNormalization(x, g, b)

    Refuses when a mean is not over the last axis alone, or keeps no axis.
    """

    source = (
        "https://onnx.ai/onnx/operators/onnx__LayerNormalization.html (arXiv 1607.06450, eq. 3-4)"
    )

    def refuse(self, values: dict[str, ir.Value]) -> str | None:
        """Decline other axes, exponents and parameter shapes."""
        hidden = static_dim(values["x"], -1)
        for mean, axes in (("mean", "axes1"), ("variance", "axes2")):
            reason = _axis_mismatch(values[mean], values[axes], values["x"])
            if reason is not None:
                return f"{mean}: {reason}"
        for parameter in ("gain", "bias"):
            array = array_of(values[parameter])
            if array is None or hidden is None or array.shape != (hidden,):
                shape = None if array is None else list(array.shape)
                return f"{parameter} has shape {shape}, not [{hidden}]"
        if scalar_of(values["epsilon"]) is None:
            return "epsilon is not a scalar constant"
        return scalar_mismatch("exponent", values["two"], 2.0) if "two" in values else None

    def replace(self, tape: ir.tape.Tape, values: dict[str, ir.Value]) -> ir.Value:
        """The right side."""
        epsilon = scalar_of(values["epsilon"])
        assert epsilon is not None
        return tape.op(
            "LayerNormalization",
            [values["x"], values["gain"], values["bias"]],
            {"axis": -1, "epsilon": float(np.float32(epsilon))},
        )


class LayerNormPow(_LayerNorm):
    """The square is ``Pow(centred, 2)``."""

    def pattern(
        self, op: Any, x: Any, axes1: Any, axes2: Any, two: Any, epsilon: Any, gain: Any, bias: Any
    ) -> Any:
        """The left side."""
        centred = op.Sub(x, op.ReduceMean(x, axes1, _outputs=["mean"]))
        variance = op.ReduceMean(op.Pow(centred, two), axes2, _outputs=["variance"])
        root = op.Sqrt(op.Add(variance, epsilon))
        return op.Add(op.Mul(op.Div(centred, root), gain), bias)


class LayerNormMul(_LayerNorm):
    """The square is ``centred * centred``."""

    def pattern(
        self, op: Any, x: Any, axes1: Any, axes2: Any, epsilon: Any, gain: Any, bias: Any
    ) -> Any:
        """The left side."""
        centred = op.Sub(x, op.ReduceMean(x, axes1, _outputs=["mean"]))
        variance = op.ReduceMean(op.Mul(centred, centred), axes2, _outputs=["variance"])
        root = op.Sqrt(op.Add(variance, epsilon))
        return op.Add(op.Mul(op.Div(centred, root), gain), bias)


def _axis_mismatch(mean: ir.Value, axes: ir.Value, x: ir.Value) -> str | None:
    node = mean.producer()
    assert node is not None
    if int_attribute(node, "keepdims", 1) != 1:
        return "the mean drops its axis"
    rank = None if x.shape is None else len(x.shape)
    got = ints_of(axes)
    if rank is None or got not in ((-1,), (rank - 1,)):
        return f"the mean is over axes {got}, not over the last one"
    return None


@dataclass(frozen=True)
class FuseLayerNorm(RewritePass):
    """Replace spelled-out layer norms; opset 18, where ReduceMean takes its axes as an input."""

    name = "fuse-layer-norm"
    min_opset = 18
    rules = (LayerNormPow(), LayerNormMul())
