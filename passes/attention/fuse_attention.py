"""Recognise scaled dot-product attention in every spelling the exporters use.

    softmax(scale * Q K^T + mask) V  ->  Attention(Q, K, V, mask, scale=scale)

with Q, K, V of shape [batch, heads, sequence, head_dim], or [batch, sequence, head_dim] for a
single head (a pooling, a batch of folded heads); `attention_match` reads the core. Scores that are
filled where a condition holds become an additive mask, and several masks become one.

The guard ``Where(IsNaN(p), 0, p)`` after the softmax is dropped: it fires for rows whose every key
is masked, where fuselage follows PyTorch's eager attention (a finite mask, hence uniform weights)
for every target; see docs/semantics.md.

Source: https://onnx.ai/onnx/operators/onnx__Attention.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import initializer, insert_before, remove_dead, replace_value
from ..masks.fill import mask_fill
from .attention_match import Core, match_core, softmax_of
from .attention_scores import Miss, Term

_LOW_FILL = -1e18
"""For a fill such as -1e4: hides every score, and like it vanishes beside the lowest float32."""


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
    dtype = node.outputs[0].dtype
    parts = (_query(core, tape), _key(core, tape), core.value)
    inputs = [_cast(tensor, dtype, tape) for tensor in parts]
    mask = _mask(node, core, tape)
    if mask is not None:
        inputs.append(mask)
    attributes: dict[str, float | int] = {"scale": float(core.scale), "is_causal": 0}
    if core.rank == 3:
        attributes |= {"q_num_heads": 1, "kv_num_heads": 1}
    if core.softcap:
        attributes["softcap"] = float(core.softcap)
    fused = tape.op("Attention", inputs, attributes)
    insert_before(node, tape.nodes)
    replace_value(node.outputs[0], fused)
    remove_dead(node)


def _query(core: Core, tape: ir.tape.Tape) -> ir.Value:
    query = core.query
    for op_type, factor in core.row_scales:
        scaled = tape.op(op_type, [query, _cast(factor, query.dtype, tape)])
        scaled.type, scaled.shape = query.type, query.shape
        query = scaled
    return query


def _key(core: Core, tape: ir.tape.Tape) -> ir.Value:
    if core.key_order == tuple(range(core.rank)):
        return core.key
    key = tape.op("Transpose", [core.key], {"perm": core.key_order})
    key.shape = core.key_shape
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
    """All terms in one, additive and of the type of Q."""
    wanted = node.outputs[0].dtype or core.query.dtype or ir.DataType.FLOAT
    dtype = _widest(wanted, core)
    total: ir.Value | None = None
    for term in core.terms:
        if term.fill is not None:
            total = _filled(node, term, total, dtype, tape)
        elif total is None:
            total = _additive(node, term, dtype, tape)
        else:
            operands = [total, _additive(node, term, dtype, tape)]
            total = _typed(tape.op("Add", operands), dtype, *operands)
    if total is None:
        return None
    return _expanded(node, _narrowed(node, total, wanted, tape), core, tape)


def _widest(dtype: ir.DataType, core: Core) -> ir.DataType:
    """Terms are summed as they were: two lowest float16 numbers are less than a float16 holds."""
    for term in core.terms:
        own = term.value.dtype
        if term.fill is None and own is not None and own.itemsize > dtype.itemsize:
            dtype = own
    return dtype


def _narrowed(node: ir.Node, mask: ir.Value, dtype: ir.DataType, tape: ir.tape.Tape) -> ir.Value:
    """A mask of the type of Q in which -1e9 is no infinity: a row of those has no weights."""
    if mask.dtype in (None, dtype):
        return mask
    assert node.graph is not None
    assert mask.dtype is not None
    lowest = np.array(mask_fill(dtype), mask.dtype.numpy())
    floor = initializer(node.graph, "mask_floor", lowest)
    return _cast(_typed(tape.op("Max", [mask, floor]), mask.dtype, mask), dtype, tape)


def _filled(
    node: ir.Node, term: Term, total: ir.Value | None, dtype: ir.DataType, tape: ir.tape.Tape
) -> ir.Value:
    """What was added so far, hidden where the condition says."""
    assert node.graph is not None
    assert term.fill is not None
    fill = mask_fill(dtype)
    if fill / 2 < _LOW_FILL and fill / 2 < term.fill:
        fill = _LOW_FILL
    hidden = initializer(node.graph, "mask_hidden", np.array(fill, dtype.numpy()))
    shown = total or initializer(node.graph, "mask_shown", np.zeros((), dtype.numpy()))
    sides = [hidden, shown] if term.fill_where else [shown, hidden]
    return _typed(tape.op("Where", [term.value, *sides]), dtype, term.value, shown)


def _additive(node: ir.Node, term: Term, dtype: ir.DataType, tape: ir.tape.Tape) -> ir.Value:
    assert node.graph is not None
    value = _cast(term.value, dtype, tape)
    if term.factor == 1.0:
        return value
    factor = initializer(node.graph, "mask_scale", np.array(term.factor, dtype.numpy()))
    return _typed(tape.op("Mul", [value, factor]), dtype, value)


def _typed(value: ir.Value, dtype: ir.DataType, *operands: ir.Value) -> ir.Value:
    """The value with the type and the shape that its operands are broadcast to."""
    value.type, shape = ir.TensorType(dtype), ir.Shape([])
    for operand in operands:
        if operand.shape is None:
            raise AssertionError("the matcher checks the rank of every term")
        shape = _broadcast(shape, operand.shape)
    value.shape = shape
    return value


def _broadcast(left: ir.Shape, right: ir.Shape) -> ir.Shape:
    rank = max(len(left), len(right))
    ones: list[int | ir.SymbolicDim] = [1]
    padded = [ones * (rank - len(shape)) + list(shape) for shape in (left, right)]
    return ir.Shape([r if ours == 1 else ours for ours, r in zip(*padded, strict=True)])


def _expanded(node: ir.Node, mask: ir.Value, core: Core, tape: ir.tape.Tape) -> ir.Value:
    """The mask with all rows and columns: ONNX Runtime 1.31 broadcasts batch and heads alone."""
    assert node.graph is not None
    assert mask.shape is not None
    rank = len(mask.shape)
    if rank < 2:
        mask = _raised(node.graph, mask, range(2 - rank), tape)
    elif core.rank == 3 and rank == 3:
        mask = _raised(node.graph, mask, range(1, 2), tape)
    assert mask.shape is not None
    assert core.query.shape is not None
    *lead, rows, columns = mask.shape
    queries, keys = core.query.shape[-2], core.key_shape[-2]
    wide = columns == 1 and keys != 1
    if not wide and (rows == queries or not _may_be_one(rows)):
        return mask
    one = initializer(node.graph, "mask_one", np.ones(1, np.int64))
    # Self-attention: the mask tells its own length, so masks of all layers stay equal.
    source = (
        (mask, len(lead) + 1) if columns == queries and not wide else (core.query, core.rank - 2)
    )
    sizes = [
        initializer(node.graph, "mask_ones", np.ones(len(lead), np.int64)),
        one if rows == queries else _size(*source, tape),
        _size(core.key, core.key_order[-2], tape) if wide else one,
    ]
    full = tape.op("Expand", [mask, tape.op("Concat", sizes, {"axis": 0})])
    full.type = mask.type
    full.shape = ir.Shape([*lead, queries, keys if wide else columns])
    return full


def _may_be_one(dim: int | ir.SymbolicDim) -> bool:
    return dim == 1 or not isinstance(dim, int)


def _size(value: ir.Value, axis: int, tape: ir.tape.Tape) -> ir.Value:
    return tape.op("Shape", [value], {"start": axis, "end": axis + 1})


def _raised(graph: ir.Graph, mask: ir.Value, axes: range, tape: ir.tape.Tape) -> ir.Value:
    """A mask [keys] as [1, keys], or one [batch, queries, keys] with an axis for the heads."""
    assert mask.shape is not None
    where = initializer(graph, "mask_axes", np.array(axes, np.int64))
    raised = tape.op("Unsqueeze", [mask, where])
    dims = list(mask.shape)
    for axis in axes:
        dims.insert(axis, 1)
    raised.type, raised.shape = mask.type, ir.Shape(dims)
    return raised
