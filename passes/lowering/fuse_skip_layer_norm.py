"""Residual sum and normalisation in one operator of ONNX Runtime.

    LayerNormalization(a + b)  ->  SkipLayerNormalization(a, b)
    RMSNormalization(a + b)    ->  SkipSimplifiedLayerNormalization(a, b)

A form the cost table may choose: on the CPUs measured so far it is 2 to 10 times slower than the
two operators (passes/costs). A sum that others read is taken from the operator's fourth output.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import array_of, insert_before, int_attribute, producer, remove_dead, replace_value

_OPERATORS = {
    "LayerNormalization": "SkipLayerNormalization",
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
}


@dataclass(frozen=True)
class FuseSkipLayerNorm(Pass):
    """Fuse normalisations of residual sums.

    Attributes:
        normalization: ``LayerNormalization`` or ``RMSNormalization``.
    """

    name = "fuse-skip-layer-norm"
    min_opset = 17
    normalization: str = "LayerNormalization"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites = 0
        for node in tuple(model.graph):
            if node.op_type != self.normalization or node.domain or len(node.outputs) != 1:
                continue
            add = producer(node.inputs[0], "Add")
            if add is None or not _is_residual(add) or not _is_over_last(node):
                continue
            if len(add.outputs[0].uses()) > 1 and not _has_constant_weights(node):
                continue
            _fuse(node, add)
            rewrites += 1
        if rewrites:
            model.opset_imports.setdefault("com.microsoft", 1)
        return result(model, rewrites)


def _is_residual(add: ir.Node) -> bool:
    """Two tensors of one shape [batch, sequence, hidden]; a bias is no residual."""
    left, right = add.inputs
    if left is None or right is None or left.shape is None or right.shape is None:
        return False
    same = len(left.shape) == 3 and left.shape == right.shape
    return same and not add.outputs[0].is_graph_output()


def _is_over_last(node: ir.Node) -> bool:
    return int_attribute(node, "axis", -1) in (-1, 2)


def _has_constant_weights(node: ir.Node) -> bool:
    """Whether the fused operator may stand where the sum stood, before its first reader."""
    return all(value is None or array_of(value) is not None for value in node.inputs[1:])


def _fuse(node: ir.Node, add: ir.Node) -> None:
    epsilon = node.attributes.get("epsilon")
    shared = len(add.outputs[0].uses()) > 1
    fused = ir.node(
        _OPERATORS[node.op_type],
        [*add.inputs, *node.inputs[1:]],
        {"epsilon": 1e-5 if epsilon is None else epsilon.as_float()},
        domain="com.microsoft",
        num_outputs=4 if shared else 1,
        name=node.name,
    )
    insert_before(add if shared else node, [fused])
    for output in fused.outputs[1:3]:
        output.name = ""
    replace_value(node.outputs[0], fused.outputs[0])
    if shared:
        replace_value(add.outputs[0], fused.outputs[3])
    remove_dead(node, add)
