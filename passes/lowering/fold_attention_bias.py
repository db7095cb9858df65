"""Take the biases of K and V out of attention, where they change nothing or one constant.

    softmax(q (k + b)^T) = softmax(q k^T)         q b^T is the same for every key of a row
    (P (v + c)) W + d = (P v) W + (c W + d)       the rows of P sum to one

Two additions a block disappear. Holds for finite masks, as the canonical ones are; a softmax behind
a softcap, a rotation of K, or a cache that shows K and V keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ...graph.tensors import Array
from ..base import Pass, PassResult, result
from ..constants import array_of, initializer, producer, remove_dead, sole_consumer


@dataclass(frozen=True)
class FoldAttentionBias(Pass):
    """Drop the bias of K and move that of V behind the output product; 3-D Attention in float32."""

    name = "fold-attention-bias"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Attention" or node.domain or "q_num_heads" not in node.attributes:
                continue
            reason = _blocked(node)
            if reason is not None:
                refusals.append(Refusal(self.name, node.name or "?", reason))
                continue
            rewrites += _drop_key_bias(node) + _move_value_bias(node)
        return result(model, rewrites, tuple(refusals))


def _blocked(node: ir.Node) -> str | None:
    if len(node.outputs) != 1 or any(value is not None for value in node.inputs[4:]):
        return "its keys and values are kept in a cache"
    softcap = node.attributes.get("softcap")
    if softcap is not None and softcap.as_float() != 0:
        return "its scores are capped, which a constant in each row would change"
    return None


def _bias(value: ir.Value | None) -> tuple[ir.Node, ir.Value, Array] | None:
    """The Add, what it adds to, and the bias [width], when nothing else reads the sum."""
    add = producer(value, "Add")
    if add is None or value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    for index in (1, 0):
        bias, other = array_of(add.inputs[index]), add.inputs[1 - index]
        if bias is not None and other is not None and bias.ndim == 1:
            kind = bias.dtype == np.float32
            return (add, other, bias) if kind and other.shape == value.shape else None
    return None


def _drop_key_bias(node: ir.Node) -> int:
    found = _bias(node.inputs[1])
    if found is None:
        return 0
    add, product, _ = found
    node.replace_input_with(1, product)
    remove_dead(add)
    return 1


def _move_value_bias(node: ir.Node) -> int:
    found = _bias(node.inputs[2])
    output = sole_consumer(node.outputs[0], "MatMul")
    if found is None or output is None or output.inputs[0] is not node.outputs[0]:
        return 0
    weight = array_of(output.inputs[1])
    add_output = sole_consumer(output.outputs[0], "Add")
    behind = None if add_output is None else _bias_of(add_output, output.outputs[0])
    if weight is None or weight.ndim != 2 or add_output is None or behind is None:
        return 0
    add, product, bias = found
    heads, kv_heads = (node.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads"))
    # Each key/value head is read by heads / kv_heads query heads in a row.
    shared = np.repeat(bias.reshape(kv_heads, -1), heads // kv_heads, axis=0).reshape(-1)
    if shared.size != weight.shape[0]:
        return 0
    index, old = behind
    spread = shared.astype(np.float64) @ weight.astype(np.float64)
    moved = (old.astype(np.float64) + spread).astype(np.float32)
    assert node.graph is not None
    name = add_output.inputs[index]
    assert name is not None
    add_output.replace_input_with(index, initializer(node.graph, f"{name.name}.folded", moved))
    node.replace_input_with(2, product)
    remove_dead(add)
    return 1


def _bias_of(add: ir.Node, product: ir.Value) -> tuple[int, Array] | None:
    """Position and content of the bias [width] the Add puts on the product."""
    index = 1 if add.inputs[0] is product else 0
    bias = array_of(add.inputs[index])
    return (index, bias) if bias is not None and bias.ndim == 1 else None
