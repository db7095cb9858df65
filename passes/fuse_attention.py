"""Recognise scaled dot-product attention in every spelling the exporters use.

    softmax(scale * Q K^T + mask) V  ->  Attention(Q, K, V, mask, scale=scale)

with Q, K, V of shape [batch, heads, sequence, head_dim]. Matching walks backwards from the last
MatMul, because the spellings vary independently: the scale sits on Q, on K, on both, or on the
scores; K is transposed by one Transpose, merged into the head split, or through three
dimensions; the scaled dot-product exporter guards the softmax with ``Where(IsNaN(p), 0, p)``.

The guard is dropped: it fires for rows whose every key is masked, where fuselage follows PyTorch's
eager attention (a finite mask, hence uniform weights) for every target; see docs/semantics.md.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..graph.history import Refusal
from .base import Pass, PassResult, result
from .constants import (
    initializer,
    insert_before,
    int_attribute,
    ints_attribute,
    producer,
    replace_value,
    scalar_of,
    static_dim,
)
from .rewrite import remove_dead


class _Miss(Exception):  # noqa: N818  (control flow inside this file, never leaves it)
    """Why a candidate is not attention."""


@dataclass(frozen=True)
class _Attention:
    query: ir.Value
    key: ir.Value
    key_is_bshd: bool
    value: ir.Value
    mask: ir.Value | None
    scale: float


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
            if node.graph is None or not _is_candidate(node):
                continue
            try:
                match = _match(node)
            except _Miss as miss:
                refusals.append(Refusal(self.name, node.name or "?", str(miss)))
                continue
            _replace(node, match)
            rewrites += 1
        return result(model, rewrites, tuple(refusals))


def _is_candidate(node: ir.Node) -> bool:
    if node.op_type != "MatMul" or node.domain:
        return False
    return producer(_unguarded(node.inputs[0]), "Softmax") is not None


def _unguarded(probabilities: ir.Value | None) -> ir.Value | None:
    """Skip ``Where(IsNaN(p), 0, p)``."""
    where = producer(probabilities, "Where")
    if where is None:
        return probabilities
    guard = producer(where.inputs[0], "IsNaN")
    guarded = guard is not None and guard.inputs[0] is where.inputs[2]
    return where.inputs[2] if guarded and scalar_of(where.inputs[1]) == 0.0 else probabilities


def _match(node: ir.Node) -> _Attention:
    softmax = producer(_unguarded(node.inputs[0]), "Softmax")
    assert softmax is not None
    if int_attribute(softmax, "axis", -1) not in (-1, 3):
        raise _Miss(f"softmax is over axis {int_attribute(softmax, 'axis', -1)}, not the last of 4")
    scores, mask = _split_mask(_required(softmax.inputs[0]))
    scores, scale = _strip_scale(scores)
    product = producer(scores, "MatMul")
    if product is None:
        raise _Miss(f"the scores come from {_origin(scores)}, not from MatMul(Q, K^T)")
    query, query_scale = _strip_scale(_required(product.inputs[0]))
    transposed, key_scale = _strip_scale(_required(product.inputs[1]))
    key, is_bshd = _untranspose(transposed)
    value = _required(node.inputs[1])
    _check_shapes(query, key, value, mask, head_axis=2 if is_bshd else 1)
    scale *= query_scale * key_scale
    if scale <= 0:
        raise _Miss(f"the scale is {scale:g}, expected a positive one")
    return _Attention(query, key, is_bshd, value, mask, scale)


def _check_shapes(
    query: ir.Value, key: ir.Value, value: ir.Value, mask: ir.Value | None, head_axis: int
) -> None:
    for name, tensor in (("Q", query), ("K", key), ("V", value)):
        if tensor.shape is None or len(tensor.shape) != 4:
            raise _Miss(f"{name} has shape {tensor.shape}, expected 4 dimensions")
    if mask is not None and (mask.shape is None or not 2 <= len(mask.shape) <= 4):
        raise _Miss(f"the mask has shape {mask.shape}, expected 2 to 4 dimensions")
    # MatMul broadcasts a batch or a head of 1, Attention does not.
    for tensor, axes in ((key, (0, head_axis)), (value, (0, 1))):
        for axis, wanted in zip(axes, (0, 1), strict=True):
            ours, theirs = static_dim(tensor, axis), static_dim(query, wanted)
            if (ours == 1 or theirs == 1) and ours != theirs:
                raise _Miss(f"Q has shape {query.shape}, but K or V has {tensor.shape}")


def _required(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise _Miss("an input is absent")
    return value


def _origin(value: ir.Value) -> str:
    node = value.producer()
    return f"{node.op_type} {node.name!r}" if node is not None else f"the value {value.name!r}"


def _split_mask(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """Scores and additive mask of ``Add(scores, mask)``, in either order."""
    add = producer(value, "Add")
    if add is None:
        return value, None
    left, right = _required(add.inputs[0]), _required(add.inputs[1])
    if _is_scores(left) == _is_scores(right):
        raise _Miss(f"cannot tell scores from mask at Add {add.name!r}")
    return (left, right) if _is_scores(left) else (right, left)


def _is_scores(value: ir.Value) -> bool:
    try:
        return producer(_strip_scale(value)[0], "MatMul") is not None
    except _Miss:
        return False


def _strip_scale(value: ir.Value) -> tuple[ir.Value, float]:
    """The tensor under ``Mul(x, constant)`` or ``Div(x, constant)``, and the factor."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return value, 1.0
    left, right = _required(node.inputs[0]), _required(node.inputs[1])
    factor = scalar_of(right)
    if factor is not None and (node.op_type == "Mul" or factor != 0):
        return left, factor if node.op_type == "Mul" else 1.0 / factor
    factor = scalar_of(left) if node.op_type == "Mul" else None
    return (right, factor) if factor is not None else (value, 1.0)


def _untranspose(transposed: ir.Value) -> tuple[ir.Value, bool]:
    """K and whether it is still [batch, sequence, heads, head_dim]."""
    node = producer(transposed, "Transpose", "Reshape")
    if node is not None and node.op_type == "Transpose":
        permutation = ints_attribute(node, "perm")
        if permutation in ((0, 1, 3, 2), (0, 2, 3, 1)):
            return _required(node.inputs[0]), permutation == (0, 2, 3, 1)
        raise _Miss(f"K^T is Transpose with perm {list(permutation)}")
    if node is not None:
        return _untranspose_through_3d(node, transposed), False
    raise _Miss(f"K^T comes from {_origin(transposed)}, not from a transposition of K")


def _untranspose_through_3d(outer: ir.Node, transposed: ir.Value) -> ir.Value:
    """``Reshape(Transpose(Reshape(K, [-1, s, d]), [0, 2, 1]), [b, h, d, s])``."""
    swap = producer(outer.inputs[0], "Transpose")
    inner = None if swap is None else producer(swap.inputs[0], "Reshape")
    if swap is None or inner is None or ints_attribute(swap, "perm") != (0, 2, 1):
        raise _Miss(f"K^T comes from Reshape {outer.name!r}, not from a transposition of K")
    key = _required(inner.inputs[0])
    flat = inner.outputs[0].shape
    if key.shape is None or transposed.shape is None or flat is None:
        raise _Miss(f"the shapes around {outer.name!r} are unknown")
    if any(_is_unknown(dim) for dim in (*key.shape, *transposed.shape, *flat[1:])):
        raise _Miss(f"the sizes around {outer.name!r} are unknown")
    wanted = [key.shape[0], key.shape[1], key.shape[3], key.shape[2]]
    if list(transposed.shape) != wanted or list(flat[1:]) != list(key.shape[2:]):
        raise _Miss(f"{outer.name!r} reshapes K {key.shape} through {flat} into {transposed.shape}")
    return key


def _is_unknown(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, ir.SymbolicDim) and dim.value is None


def _replace(node: ir.Node, match: _Attention) -> None:
    tape = ir.tape.Tape()
    key = match.key
    if match.key_is_bshd:
        key = tape.op("Transpose", [match.key], {"perm": [0, 2, 1, 3]})
        shape = match.key.shape
        assert shape is not None
        key.shape = ir.Shape([shape[0], shape[2], shape[1], shape[3]])
        key.type = match.key.type
    inputs = [match.query, key, match.value]
    if match.mask is not None:
        inputs.append(_expanded(node, match.mask, match.query, tape))
    fused = tape.op("Attention", inputs, {"scale": float(match.scale), "is_causal": 0})
    insert_before(node, tape.nodes)
    replace_value(node.outputs[0], fused)
    remove_dead(node)


def _expanded(node: ir.Node, mask: ir.Value, query: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """The mask with a row a query: ONNX Runtime 1.31 broadcasts batch and heads alone."""
    assert mask.shape is not None
    assert query.shape is not None
    assert node.graph is not None
    rank, queries = len(mask.shape), query.shape[2]
    if mask.shape[rank - 2] != 1 or queries == 1:
        return mask
    # Self-attention: the mask tells its own length, so masks of all layers stay equal.
    read, axis = (mask, rank - 1) if mask.shape[rank - 1] == queries else (query, 2)
    ones = initializer(node.graph, "mask_ones", np.ones(rank - 2, np.int64))
    one = initializer(node.graph, "mask_one", np.ones(1, np.int64))
    length = tape.op("Shape", [read], {"start": axis, "end": axis + 1})
    target = tape.op("Concat", [ones, length, one], {"axis": 0})
    full = tape.op("Expand", [mask, target])
    full.type = mask.type
    full.shape = ir.Shape([*mask.shape[: rank - 2], queries, mask.shape[rank - 1]])
    return full
