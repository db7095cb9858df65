"""Raise a graph to the canonical opset, where Attention is an operator."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..errors import OpsetError
from .base import Pass, PassResult, result

# Operators whose definition changed between opset 18 and 23 in more than the dtypes they accept
# (https://github.com/onnx/onnx/blob/main/docs/Changelog.md).
_CHANGED = {
    "GroupNormalization": 21,  # scale and bias became per channel instead of per group
    "AveragePool": 19,  # a pooling window that starts in the right padding is dropped
    "DFT": 20,  # the axis became an input
    "GridSample": 20,  # the modes were renamed
    "Resize": 19,  # a new keep_aspect_ratio_policy changes the default of sizes
}


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Import a newer standard opset.

    From opset 18 on, the operators of transformers changed only in the dtypes they accept, so the
    import is enough; a graph with one of the operators that did change is refused.

    Attributes:
        opset: version to import; a graph that already imports it or a newer one is left alone.
    """

    name = "raise-opset"
    opset: int = 23

    def requires(self, model: ir.Model) -> None:
        """Check that the graph can be raised.

        Raises:
            OpsetError: below opset 18, or with an operator whose meaning changed in between.
        """
        have = model.opset_imports.get("", 0)
        if have < 18:
            raise OpsetError(
                f"pass {self.name}: expected a graph of opset 18 or newer, got opset {have}; "
                "export again with opset_version=18 or later, or convert it with "
                "onnx.version_converter"
            )
        for node in model.graph:
            changed = _CHANGED.get(node.op_type, 0)
            if not node.domain and have < changed <= self.opset:
                raise OpsetError(
                    f"pass {self.name}: node {node.name!r} is {node.op_type}, whose meaning "
                    f"changed in opset {changed}; export again with opset_version={self.opset}"
                )

    def call(self, model: ir.Model) -> PassResult:
        """Change the import."""
        if model.opset_imports[""] >= self.opset:
            return result(model, 0)
        model.opset_imports[""] = self.opset
        return result(model, 1)
