"""Recognise root-mean-square norms spelled out in primitive operators.

    x / sqrt(mean(x^2) + epsilon) * gain  ->  RMSNormalization(x, gain)

over the last axis of tensors of any rank: the norms of T5 and Llama, and those of query and key
heads. The Casts around it that models of 16 bits have are what the operator does itself; a gain in
float32 (Gemma) keeps them, because the operator's kernels want one type.

Source: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html, arXiv 1910.07467
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..casts import unwidened
from .spelled_norms import Miss, complete, quotient_of, replace


@dataclass(frozen=True)
class FuseRmsNorm(Pass):
    """Replace spelled-out RMS norms by the operator of opset 23.

    A quotient by the root of a mean counts as found; one that is not replaced is refused with the
    first difference met. A gain that is no vector stays a Mul behind the operator.
    """

    name = "fuse-rms-norm"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.graph is None:
                continue
            try:
                rewrites += _fuse(node)
            except Miss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
        return result(model, rewrites, tuple(refusals))


def _fuse(node: ir.Node) -> int:
    found = quotient_of(node)
    if found is None:
        return 0
    if unwidened(found.numerator) is not found.base:
        raise Miss(
            f"it divides {found.numerator.name!r} by the root mean square of {found.base.name!r}"
        )
    replace(complete(found, found.numerator, biased=False), "RMSNormalization")
    return 1
