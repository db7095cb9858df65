"""Recognise scaled dot-product attention in every spelling the exporters use.

    softmax(scale * Q K^T + mask) V  ->  Attention(Q, K, V, mask, scale=scale)

with Q, K, V of shape [batch, heads, sequence, head_dim]; `attention_match` reads the core. Scores
that are filled where a condition holds become an additive mask, and several masks are added up.

The guard ``Where(IsNaN(p), 0, p)`` after the softmax is dropped: it fires for rows whose every key
is masked, where fuselage follows PyTorch's eager attention (a finite mask, hence uniform weights)
for every target; see docs/semantics.md.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph.history import Refusal
from .attention_match import Core, Miss, Term, match_core, softmax_of
from .base import Pass, PassResult, result
from .constants import initializer, insert_before, replace_value
from .padding_mask import mask_fill
from .rewrite import remove_dead


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Replace attention cores by the standard Attention operator in its 4-D form.

    Keeps names, types and topological order. Every ``MatMul`` that multiplies a softmax counts as
    found; one that is not replaced is refused with the first difference met.
    """

    name = "fuse-attention"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.graph is None or softmax_of(node) is None:
                continue
            try:
                core = match_core(node)
            except Miss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
                continue
            _replace(node, core)
            rewrites += 1
        return result(model, rewrites, tuple(refusals))


def _replace(node: ir.Node, core: Core) -> None:
    tape = ir.tape.Tape()
    query, value, dtype = core.query, core.value, node.outputs[0].dtype
    key = _head_major(core, tape) if core.key_is_bshd else core.key
    inputs = [_cast(tensor, dtype, tape) for tensor in (query, key, value)]
    mask = _mask(node, core, tape)
    if mask is not None:
        inputs.append(mask)
    attributes: dict[str, float | int] = {"scale": float(core.scale), "is_causal": 0}
    if core.softcap:
        attributes["softcap"] = float(core.softcap)
    fused = tape.op("Attention", inputs, attributes)
    insert_before(node, tape.nodes)
    replace_value(node.outputs[0], fused)
    remove_dead(node)


def _head_major(core: Core, tape: ir.tape.Tape) -> ir.Value:
    key = tape.op("Transpose", [core.key], {"perm": [0, 2, 1, 3]})
    shape = core.key.shape
    assert shape is not None
    key.shape = ir.Shape([shape[0], shape[2], shape[1], shape[3]])
    key.type = core.key.type
    return key


def _cast(value: ir.Value, dtype: ir.DataType | None, tape: ir.tape.Tape) -> ir.Value:
    """Q, K and V of one type, where a graph computes its scores in another precision."""
    if dtype is None or value.dtype in (None, dtype):
        return value
    cast = tape.op("Cast", [value], {"to": dtype})
    cast.shape, cast.type = value.shape, ir.TensorType(dtype)
    return cast


def _mask(node: ir.Node, core: Core, tape: ir.tape.Tape) -> ir.Value | None:
    """The sum of all terms, additive and of the type of Q."""
    dtype = node.outputs[0].dtype or core.query.dtype or ir.DataType.FLOAT
    total: ir.Value | None = None
    for term in core.terms:
        additive = _additive(node, term, dtype, tape)
        if total is None:
            total = additive
            continue
        shape = _broadcast(total.shape, additive.shape)
        total = tape.op("Add", [total, additive])
        total.shape, total.type = shape, ir.TensorType(dtype)
    return None if total is None else _expanded(node, total, core, tape)


def _additive(node: ir.Node, term: Term, dtype: ir.DataType, tape: ir.tape.Tape) -> ir.Value:
    assert node.graph is not None
    value = term.value
    if term.fill is not None:
        shown = initializer(node.graph, "mask_shown", np.zeros((), dtype.numpy()))
        hidden = initializer(node.graph, "mask_hidden", np.array(mask_fill(dtype), dtype.numpy()))
        sides = [hidden, shown] if term.fill_where else [shown, hidden]
        additive = tape.op("Where", [value, *sides])
    elif term.factor != 1.0:
        factor = initializer(node.graph, "mask_scale", np.array(term.factor, dtype.numpy()))
        additive = tape.op("Mul", [_cast(value, dtype, tape), factor])
    else:
        return _cast(value, dtype, tape)
    additive.shape, additive.type = value.shape, ir.TensorType(dtype)
    return additive


def _broadcast(left: ir.Shape | None, right: ir.Shape | None) -> ir.Shape | None:
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    ones: list[int | ir.SymbolicDim] = [1]
    padded = [ones * (rank - len(shape)) + list(shape) for shape in (left, right)]
    return ir.Shape([r if ours == 1 else ours for ours, r in zip(*padded, strict=True)])


def _expanded(node: ir.Node, mask: ir.Value, core: Core, tape: ir.tape.Tape) -> ir.Value:
    """The mask with a row a query: ONNX Runtime 1.31 broadcasts batch and heads alone."""
    assert node.graph is not None
    assert core.query.shape is not None
    queries = core.query.shape[2]
    if mask.shape is None:
        raise AssertionError("the matcher checks the rank of every term")
    if len(mask.shape) < 2:
        mask = _raised(node.graph, mask, tape)
    assert mask.shape is not None
    rank = len(mask.shape)
    if mask.shape[rank - 2] != 1 or queries == 1:
        return mask
    # Self-attention: the mask tells its own length, so masks of all layers stay equal.
    read, axis = (mask, rank - 1) if mask.shape[rank - 1] == queries else (core.query, 2)
    ones = initializer(node.graph, "mask_ones", np.ones(rank - 2, np.int64))
    one = initializer(node.graph, "mask_one", np.ones(1, np.int64))
    length = tape.op("Shape", [read], {"start": axis, "end": axis + 1})
    target = tape.op("Concat", [ones, length, one], {"axis": 0})
    full = tape.op("Expand", [mask, target])
    full.type = mask.type
    full.shape = ir.Shape([*mask.shape[: rank - 2], queries, mask.shape[rank - 1]])
    return full


def _raised(graph: ir.Graph, mask: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """A mask [keys] as [1, keys]."""
    assert mask.shape is not None
    axes = initializer(graph, "mask_axes", np.arange(2 - len(mask.shape), dtype=np.int64))
    raised = tape.op("Unsqueeze", [mask, axes])
    raised.type = mask.type
    raised.shape = ir.Shape([*[1] * (2 - len(mask.shape)), *mask.shape])
    return raised
