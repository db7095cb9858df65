"""Shapes of operators that gather, reduce, generate or multiply."""

from __future__ import annotations

import onnx_ir as ir

from ...graph.tensors import Dim
from ..constants import int_attribute, ints_attribute
from . import algebra
from .elementwise import broadcast
from .facts import Fact, Shape, Site

INT64 = ir.DataType.INT64


def gather(at: Site) -> list[Fact]:
    """``Gather``: the indices' shape in the place of one axis."""
    data, indices = at.inputs[0], at.inputs[1]
    if data.shape is None or indices.shape is None:
        return [Fact(data.dtype)]
    axis = int_attribute(at.node, "axis", 0) % max(len(data.shape), 1)
    return [Fact(data.dtype, data.shape[:axis] + indices.shape + data.shape[axis + 1 :])]


def gather_elements(at: Site) -> list[Fact]:
    """``GatherElements``: the indices' shape."""
    return [Fact(at.inputs[0].dtype, at.inputs[1].shape)]


def gather_nd(at: Site) -> list[Fact]:
    """``GatherND``: the last axis of the indices addresses leading axes of the data."""
    data, indices = at.inputs[0], at.inputs[1]
    if data.shape is None or indices.shape is None or not isinstance(indices.shape[-1], int):
        return [Fact(data.dtype)]
    used = int_attribute(at.node, "batch_dims", 0) + indices.shape[-1]
    return [Fact(data.dtype, indices.shape[:-1] + data.shape[used:])]


def shape(at: Site) -> list[Fact]:
    """``Shape``, all of it or from start to end."""
    dims = at.inputs[0].shape
    if dims is None:
        return [Fact(INT64, (None,))]
    start, end = int_attribute(at.node, "start", 0), int_attribute(at.node, "end", len(dims))
    return [Fact(INT64, (len(dims[slice(*slice(start, end).indices(len(dims)))]),))]


def size(_: Site) -> list[Fact]:
    """``Size``."""
    return [Fact(INT64, ())]


def fill(at: Site) -> list[Fact]:
    """``ConstantOfShape``."""
    value = at.node.attributes.get("value")
    dtype = ir.DataType.FLOAT if value is None else value.as_tensor().dtype
    target = at.inputs[0]
    rank = target.shape[0] if target.shape is not None and len(target.shape) == 1 else None
    unknown = (None,) * rank if isinstance(rank, int) else None
    return [Fact(dtype, unknown if target.content is None else target.content)]


def count(at: Site) -> list[Fact]:
    """``Range``."""
    bounds = [fact.content[0] if fact.content else None for fact in at.inputs]
    start, limit, delta = bounds
    if start is None or limit is None or delta is None:
        return [Fact(at.inputs[0].dtype, (None,))]
    if isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int) and delta:
        return [Fact(at.inputs[0].dtype, (len(range(start, limit, delta)),))]
    length = algebra.subtract(limit, start) if delta == 1 else None
    known = length is not None and algebra.lowest(length) >= 0
    return [Fact(at.inputs[0].dtype, (length if known else None,))]


def reduce(at: Site) -> list[Fact]:
    """Reductions; axes are an attribute before opset 18 (13 for ReduceSum)."""
    data = at.inputs[0]
    if data.shape is None:
        return [Fact(data.dtype)]
    axes: tuple[int, ...] | None = ints_attribute(at.node, "axes")
    if not axes and len(at.inputs) > 1 and at.node.inputs[1] is not None:
        axes = at.inputs[1].ints()
    keeps = int_attribute(at.node, "keepdims", 1)
    if axes is None:
        return [Fact(data.dtype, (None,) * len(data.shape) if keeps else None)]
    if not axes and int_attribute(at.node, "noop_with_empty_axes", 0):
        return [Fact(data.dtype, data.shape)]
    return [Fact(data.dtype, _without(data.shape, axes or range(len(data.shape)), bool(keeps)))]


def _without(dims: Shape, axes: tuple[int, ...] | range, keeps: bool) -> Shape:
    gone = {axis % len(dims) for axis in axes}
    marked: list[Dim | None] = []
    for axis, dim in enumerate(dims):
        if axis not in gone:
            marked.append(dim)
        elif keeps:
            marked.append(1)
    return tuple(marked)


def argument(at: Site) -> list[Fact]:
    """``ArgMax`` and ``ArgMin``."""
    if at.inputs[0].shape is None:
        return [Fact(INT64)]
    keeps = bool(int_attribute(at.node, "keepdims", 1))
    return [Fact(INT64, _without(at.inputs[0].shape, (int_attribute(at.node, "axis", 0),), keeps))]


def multiply(at: Site) -> list[Fact]:
    """``MatMul``: the summed axes are equal, since no MatMul broadcasts them."""
    left, right, dtype = at.inputs[0].shape, at.inputs[1].shape, at.inputs[0].dtype
    dtype = ir.DataType.INT32 if at.node.op_type == "MatMulInteger" else dtype
    if not left or not right:
        return [Fact(dtype)]
    at.facts.equate(left[-1], right[-2] if len(right) > 1 else right[0])
    batch = broadcast(left[:-2], right[:-2])
    if batch is None:
        return [Fact(dtype)]
    rows, columns = left[-2:-1], right[-1:] if len(right) > 1 else ()
    return [Fact(dtype, (*batch, *rows, *columns))]


def gemm(at: Site) -> list[Fact]:
    """``Gemm`` of two matrices."""
    left, right = at.inputs[0].shape, at.inputs[1].shape
    rows = columns = None
    if left is not None and len(left) == 2:
        rows = left[1 if int_attribute(at.node, "transA", 0) else 0]
    if right is not None and len(right) == 2:
        columns = right[0 if int_attribute(at.node, "transB", 0) else 1]
    return [Fact(at.inputs[0].dtype, (rows, columns))]


def attend(at: Site) -> list[Fact]:
    """``Attention`` of opset 23 and 24, with heads split (4-D) or not (3-D), with or without cache.

    Outputs: result, present key, present value, scores.
    """
    query, key, value = (fact.shape for fact in at.inputs[:3])
    if query is None or key is None or value is None or not len(query) == len(key) == len(value):
        return [Fact(at.inputs[0].dtype)]
    if len(query) == 4:
        first: Shape = (*query[:3], value[3])
        key_heads, new, sizes = key[1], key[2], (key[3], value[3])
    else:
        key_heads = int_attribute(at.node, "kv_num_heads", 1)
        sizes = (_share(key[2], key_heads), _share(value[2], key_heads))
        heads = int_attribute(at.node, "q_num_heads", 1)
        width = None if sizes[1] is None else algebra.multiply(sizes[1], heads)
        first, new = (*query[:2], width), key[1]
    past = at.inputs[4].shape if len(at.inputs) > 4 and at.inputs[4].shape is not None else None
    old = past[2] if past is not None and len(past) == 4 else 0
    total = None if old is None or new is None else algebra.add(old, new)
    present = [Fact(at.inputs[1].dtype, (query[0], key_heads, total, size)) for size in sizes]
    return [Fact(at.inputs[0].dtype, first), *present]


def _share(width: Dim | None, heads: int) -> Dim | None:
    return None if width is None or heads < 1 else algebra.exact_quotient(width, heads)
