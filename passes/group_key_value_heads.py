"""Give Attention the key/value heads the model has, not copies of them.

    Attention(Q, repeat(K, g), repeat(V, g))  ->  Attention(Q, K, V)

Grouped-query models share a key/value head among g query heads. Exporters repeat the heads to
the number of the queries' (Unsqueeze, Expand, Reshape), which costs g times the memory of the
cache at every step; Attention shares them itself: query head i reads key/value head i // g.

Sources: https://arxiv.org/abs/2305.13245, https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..graph.history import Refusal
from .base import Pass, PassResult, result
from .constants import producer, static_dim
from .rewrite import remove_dead


@dataclass(frozen=True)
class GroupKeyValueHeads(Pass):
    """Let the 4-D form of Attention read key/value heads before they are repeated."""

    name = "group-key-value-heads"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Attention" or node.domain or "q_num_heads" in node.attributes:
                continue
            reason = _group(node)
            if reason is None:
                rewrites += 1
            elif reason:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _group(node: ir.Node) -> str | None:
    """Rewrite one node; the reason when it cannot be, empty when nothing is repeated."""
    key, value = (_unrepeated(tensor) for tensor in node.inputs[1:3])
    if key is None and value is None:
        return ""
    if key is None or value is None:
        return f"the heads of {'V' if key is None else 'K'} alone are repeated"
    assert node.inputs[0] is not None
    heads, key_heads, value_heads = (static_dim(t, 1) for t in (node.inputs[0], key, value))
    if key_heads != value_heads or heads is None or not key_heads or heads % key_heads:
        return f"Q has {heads} heads, K {key_heads} and V {value_heads}"
    repeated = [tensor.producer() for tensor in node.inputs[1:3] if tensor is not None]
    node.replace_input_with(1, key)
    node.replace_input_with(2, value)
    remove_dead(*(producing for producing in repeated if producing is not None))
    return None


def _unrepeated(value: ir.Value | None) -> ir.Value | None:
    """The tensor [batch, kv_heads, keys, head_dim] whose heads were repeated."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    merge = producer(value, "Reshape")
    expand = None if merge is None else producer(merge.inputs[0], "Expand", "Tile")
    raised = None if expand is None else expand.inputs[0]
    raise_ = producer(raised, "Unsqueeze", "Reshape")
    source = None if raise_ is None else raise_.inputs[0]
    if merge is None or raised is None or source is None:
        return None
    repeated = merge.inputs[0]
    return source if repeated is not None and _repeats(source, raised, repeated, value) else None


def _repeats(source: ir.Value, raised: ir.Value, repeated: ir.Value, value: ir.Value) -> bool:
    """[b, k, s, d] -> [b, k, 1, s, d] -> [b, k, g, s, d] -> [b, k * g, s, d]."""
    shapes = [tensor.shape for tensor in (source, raised, repeated, value)]
    if [None if shape is None else len(shape) for shape in shapes] != [4, 5, 5, 4]:
        return False
    heads, groups = static_dim(source, 1), static_dim(repeated, 2)
    if heads is None or groups is None or static_dim(raised, 2) != 1:
        return False
    one = (static_dim(raised, 1), static_dim(repeated, 1)) == (heads, heads)
    if not one or static_dim(value, 1) != heads * groups:
        return False
    size = static_dim(source, 3)
    if size is None or {static_dim(tensor, -1) for tensor in (raised, repeated, value)} != {size}:
        return False
    # A Reshape may mix batch and length, an Expand may repeat one of them.
    unmixed = _same(source, 0, raised, 0) or _same(source, 2, raised, 3)
    return unmixed and _same(source, 0, value, 0) and _same(source, 2, value, 2)


def _same(left: ir.Value, axis: int, right: ir.Value, other: int) -> bool:
    """Whether two axes are known to have one size."""
    assert left.shape is not None
    assert right.shape is not None
    size = left.shape[axis]
    return size == right.shape[other] and size != ir.SymbolicDim(None)
