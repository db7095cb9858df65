"""Recognise GELU spelled out in primitive operators, exact and tanh-approximated.

The two are different functions (they differ by up to 5e-4) and never turn into one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from .constants import scalar_mismatch
from .rewrite import RewritePass, RewriteRule

_SPEC = "https://onnx.ai/onnx/operators/onnx__Gelu.html"
_TANH_SCALE = math.sqrt(2.0 / math.pi)


def _first_mismatch(values: dict[str, ir.Value], wanted: dict[str, float]) -> str | None:
    reasons = (scalar_mismatch(name, values.get(name), value) for name, value in wanted.items())
    return next((reason for reason in reasons if reason is not None), None)


class _ErfGelu(RewriteRule):
    """The exact GELU, abstract: its spellings differ in the left side alone."""

    source = _SPEC

    def refuse(self, values: dict[str, ir.Value]) -> str | None:
        """Decline other constants."""
        constants = {"half": 0.5, "one": 1.0, "root_two": math.sqrt(2.0), "inverse": math.sqrt(0.5)}
        return _first_mismatch(values, {k: v for k, v in constants.items() if k in values})

    def replace(self, tape: ir.tape.Tape, values: dict[str, ir.Value]) -> ir.Value:
        """The right side."""
        return tape.op("Gelu", [values["x"]])


class ErfGelu(_ErfGelu):
    """``(x * (1 + erf(x / sqrt 2))) * 0.5  ->  Gelu(x)``, the spelling of the legacy exporter."""

    def pattern(self, op: Any, x: Any, half: Any, one: Any, root_two: Any) -> Any:
        """The left side."""
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, root_two)), one)), half)


class ErfGeluHalfFirst(_ErfGelu):
    """``(0.5 * x) * (1 + erf(x / sqrt 2))  ->  Gelu(x)``."""

    def pattern(self, op: Any, x: Any, half: Any, one: Any, root_two: Any) -> Any:
        """The left side."""
        return op.Mul(op.Mul(x, half), op.Add(op.Erf(op.Div(x, root_two)), one))


class ErfGeluMul(_ErfGelu):
    """``(0.5 * x) * (1 + erf(x * 0.70710678))  ->  Gelu(x)``, PyTorch's own decomposition."""

    def pattern(self, op: Any, x: Any, half: Any, one: Any, inverse: Any) -> Any:
        """The left side."""
        return op.Mul(op.Mul(x, half), op.Add(op.Erf(op.Mul(x, inverse)), one))


class TanhGelu(RewriteRule):
    """``0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))  ->  Gelu(x, approximate="tanh")``."""

    source = "https://arxiv.org/abs/1606.08415"

    def pattern(
        self, op: Any, x: Any, half: Any, one: Any, cubic: Any, scale: Any, three: Any
    ) -> Any:
        """The left side."""
        inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, three), cubic)), scale)
        return op.Mul(op.Mul(x, half), op.Add(op.Tanh(inner), one))

    def refuse(self, values: dict[str, ir.Value]) -> str | None:
        """Decline other constants."""
        wanted = {"half": 0.5, "one": 1.0, "cubic": 0.044715, "scale": _TANH_SCALE, "three": 3.0}
        return _first_mismatch(values, wanted)

    def replace(self, tape: ir.tape.Tape, values: dict[str, ir.Value]) -> ir.Value:
        """The right side."""
        return tape.op("Gelu", [values["x"]], {"approximate": "tanh"})


@dataclass(frozen=True)
class FuseGelu(RewritePass):
    """Replace spelled-out GELUs by the operator of opset 20."""

    name = "fuse-gelu"
    min_opset = 20
    rules = (ErfGelu(), ErfGeluHalfFirst(), ErfGeluMul(), TanhGelu())
