"""Let Attention append the new keys and values to the cache itself.

    present_k = Concat(past_k, K), present_v = Concat(past_v, V)
    Attention(Q, present_k, present_v, mask)
      ->  Attention(Q, K, V, mask, past_k, past_v) with present_k and present_v as outputs

The canonical form of a decoder with a cache; what a target does with it (a buffer of fixed size,
its own operator) is decided when the graph is lowered.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import insert_before, int_attribute, producer, remove_dead, replace_value


@dataclass(frozen=True)
class FuseKeyValueCache(Pass):
    """Turn concatenations in front of Attention into its past and present."""

    name = "fuse-key-value-cache"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Attention" or node.domain or len(node.inputs) > 4:
                continue
            if len(node.outputs) != 1:
                continue
            reason = _fuse(node)
            if reason is None:
                rewrites += 1
            elif reason:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _fuse(node: ir.Node) -> str | None:
    """Rewrite one node; the reason when it cannot be, empty when there is no cache."""
    key, value = (_concatenation(tensor) for tensor in node.inputs[1:3])
    if key is None and value is None:
        return ""
    if key is None or value is None:
        return f"{'V' if key is None else 'K'} alone is appended to a cache"
    if key is value:
        return "K and V are one cache"
    if int_attribute(node, "is_causal", 0):
        return "the causal mask counts from the first key, not from the first new one"
    for concatenation in (key, value):
        others = [use.node for use in concatenation.outputs[0].uses() if use.node is not node]
        if others:
            return f"{concatenation.name!r} is also read by {others[0].op_type} {others[0].name!r}"
        if not concatenation.outputs[0].is_graph_output():
            # ONNX Runtime 1.31 runs no Attention with a past and without its present.
            return f"{concatenation.name!r} is no output of the graph, so there is no present"
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    fused = ir.node(
        "Attention",
        [node.inputs[0], key.inputs[1], value.inputs[1], mask, key.inputs[0], value.inputs[0]],
        attributes,
        num_outputs=3,
        name=node.name,
    )
    insert_before(node, [fused])
    present = (node, key, value)
    for old, new in zip(present, fused.outputs, strict=True):
        replace_value(old.outputs[0], new)
    remove_dead(*present)
    return None


def _concatenation(value: ir.Value | None) -> ir.Node | None:
    """``Concat(past, new, axis=2)`` where past is an input; two texts are joined so, too."""
    node = producer(value, "Concat")
    if node is None or len(node.inputs) != 2 or not _is_given(node.inputs[0]):
        return None
    rank = None if node.outputs[0].shape is None else len(node.outputs[0].shape)
    return node if rank == 4 and int_attribute(node, "axis", 0) in (2, -2) else None


def _is_given(past: ir.Value | None) -> bool:
    """Whether it is an input of the graph, or a window of one."""
    window = producer(past, "Slice", "Cast")
    while window is not None:
        past = window.inputs[0]
        window = producer(past, "Slice", "Cast")
    return past is not None and past.is_graph_input()
