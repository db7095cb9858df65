"""Recognise attention that reads and extends a key/value cache.

Two spellings, both with caches [batch, kv heads, past, head size]:

    y, present_key, present_value = Attention(Q, K, V, mask, past_key, past_value)
    y = Attention(Q, Concat(past_key, K), Concat(past_value, V), mask)    the Concats are outputs

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..constants import int_attribute, producer, static_dim

_UNSUPPORTED = ("softcap", "softmax_precision")


@dataclass(frozen=True, kw_only=True)
class CachedAttention:
    """One attention with its cache.

    Attributes:
        node: the Attention.
        query: float [batch, heads, new, size], or [batch, new, heads * size] when flat.
        key: the new keys alone, in the layout of the query.
        value: the new values alone.
        mask: float or bool [batch, 1, new, past + new], or None.
        past: keys and values that were there, inputs of the graph.
        present: keys and values that are there now, outputs of the graph.
    """

    node: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    mask: ir.Value | None
    past: tuple[ir.Value, ir.Value]
    present: tuple[ir.Value, ir.Value]

    @property
    def kv_heads(self) -> int:
        """Heads the cache holds."""
        heads = static_dim(self.past[0], 1)
        assert heads is not None
        return heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        size = static_dim(self.past[0], 3)
        assert size is not None
        return size


def find_cached_attention(graph: ir.Graph) -> tuple[tuple[CachedAttention, ...], list[str]]:
    """Every attention that extends a cache.

    Returns:
        What was found, and why an attention that touches a cache is not among it.
    """
    found, misses = [], []
    for node in graph:
        if node.op_type != "Attention" or node.domain not in ("", "ai.onnx"):
            continue
        match = _native(node) if _has(node, 4) else _concatenated(node)
        if match is None:
            continue
        reason = _objection(match)
        if reason is None:
            found.append(match)
        else:
            misses.append(f"Attention {node.name!r}: {reason}")
    return tuple(found), misses


def _has(node: ir.Node, slot: int) -> bool:
    return len(node.inputs) > slot and node.inputs[slot] is not None


def _native(node: ir.Node) -> CachedAttention:
    query, key, value = (_required(node.inputs[slot]) for slot in range(3))
    outputs = node.outputs
    return CachedAttention(
        node=node,
        query=query,
        key=key,
        value=value,
        mask=node.inputs[3],
        past=(_required(node.inputs[4]), _required(node.inputs[5])),
        present=(outputs[1], outputs[2]) if len(outputs) > 2 else (outputs[0], outputs[0]),
    )


def _concatenated(node: ir.Node) -> CachedAttention | None:
    joined = [producer(value, "Concat") for value in node.inputs[1:3]]
    key, value = joined
    if key is None or value is None or len(key.inputs) != 2 or len(value.inputs) != 2:
        return None
    if int_attribute(key, "axis", 0) not in (2, -2) or int_attribute(value, "axis", 0) not in (
        2,
        -2,
    ):
        return None
    return CachedAttention(
        node=node,
        query=_required(node.inputs[0]),
        key=_required(key.inputs[1]),
        value=_required(value.inputs[1]),
        mask=node.inputs[3] if _has(node, 3) else None,
        past=(_required(key.inputs[0]), _required(value.inputs[0])),
        present=(key.outputs[0], value.outputs[0]),
    )


def _required(value: ir.Value | None) -> ir.Value:
    assert value is not None  # the ONNX checker has seen the graph
    return value


def _objection(match: CachedAttention) -> str | None:
    for past, present in zip(match.past, match.present, strict=True):
        if not past.is_graph_input() or not present.is_graph_output():
            return f"its cache {past.name!r} -> {present.name!r} is not an input and an output"
        if static_dim(past, 1) is None or static_dim(past, 3) is None:
            return (
                f"the cache {past.name!r} has shape {past.shape}, expected [batch, kv heads, past, "
                "head size] with the second and the last known"
            )
    if len(match.node.outputs) > 3:
        return "its scores are an output too"
    for name in _UNSUPPORTED:
        attribute = match.node.attributes.get(name)
        if attribute is not None and attribute.value not in (0, 0.0):
            return f"it sets {name}={attribute.value}"
    causal = int_attribute(match.node, "is_causal", 0) == 1
    if causal and match.node.outputs[0] is match.node.outputs[-1]:
        return "it is causal over concatenated keys, which shows a query at the end the first alone"
    if causal == (match.mask is not None):
        return "it needs a mask or is_causal, and not both"
    return None
