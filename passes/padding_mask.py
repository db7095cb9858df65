"""The canonical padding mask: how it is written and how it is recognised.

    keep = Unsqueeze(Cast(attention_mask, bool), [1, 2])
    mask = Expand(Where(keep, 0, fill), [1, 1, s, 1])        [batch, 1, sequence, sequence]

Additive and finite, so a row whose every key is masked gets uniform weights, as in PyTorch's eager
attention. The query axis is expanded because ONNX Runtime 1.31 does not broadcast it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .constants import (
    initializer,
    int_attribute,
    ints_of,
    producer,
    scalar_of,
)

MASKED_BELOW = -1e4
"""The weakest fill in use (original BERT); exp(-1e4) is 0 in float32."""

_HEADROOM = 0.9


def mask_fill(dtype: ir.DataType) -> float:
    """What a hidden key adds to a score: far below every score, and not the lowest number.

    ONNX Runtime 1.31 answers 0 for a row of scores that are all the lowest number, where eager
    attention spreads evenly; and the lowest float16 plus a score of -16 already is -infinity.
    """
    return _HEADROOM * float(dtype.min)


def write_padding_mask(
    graph: ir.Graph, tape: ir.tape.Tape, source: ir.Value, dtype: ir.DataType
) -> ir.Value:
    """Record the canonical mask of a padding input on a tape.

    Args:
        graph: gets the constants.
        tape: gets the nodes; they read nothing but the source.
        source: [batch, sequence], 1 where a token is.
        dtype: of the attention's query.
    """
    name = source.name or "mask"
    axes = initializer(graph, f"{name}.axes", np.array([1, 2], np.int64))
    zero = initializer(graph, f"{name}.keep", np.zeros((), dtype.numpy()))
    fill = initializer(graph, f"{name}.drop", np.array(mask_fill(dtype), dtype.numpy()))
    ones = initializer(graph, f"{name}.ones", np.array([1, 1], np.int64))
    one = initializer(graph, f"{name}.one", np.array([1], np.int64))
    keep = tape.op("Unsqueeze", [tape.op("Cast", [source], {"to": ir.DataType.BOOL}), axes])
    bias = tape.op("Where", [keep, zero, fill])
    length = tape.op("Shape", [source], {"start": 1, "end": 2})
    full = tape.op("Expand", [bias, tape.op("Concat", [ones, length, one], {"axis": 0})])
    assert source.shape is not None
    batch, sequence = source.shape[0], source.shape[1]
    full.shape, full.type = ir.Shape([batch, 1, sequence, sequence]), ir.TensorType(dtype)
    return full


def padding_source(mask: ir.Value) -> ir.Value | None:
    """The padding input when the mask is exactly the canonical one, else None."""
    expand = producer(mask, "Expand")
    where = None if expand is None else producer(expand.inputs[0], "Where")
    unsqueeze = None if where is None else producer(where.inputs[0], "Unsqueeze")
    cast = None if unsqueeze is None else producer(unsqueeze.inputs[0], "Cast")
    if expand is None or where is None or unsqueeze is None or cast is None:
        return None
    source = cast.inputs[0]
    if source is None or not source.is_graph_input() or not _expands_queries(expand, source):
        return None
    is_padding = ints_of(unsqueeze.inputs[1]) == (1, 2)
    to_bool = int_attribute(cast, "to", 0) == ir.DataType.BOOL
    return source if is_padding and to_bool and _has_canonical_fill(where) else None


def _has_canonical_fill(where: ir.Node) -> bool:
    keep, fill = scalar_of(where.inputs[1]), scalar_of(where.inputs[2])
    dtype = None if where.inputs[2] is None else where.inputs[2].dtype
    if keep != 0.0 or fill is None or dtype is None:
        return False
    return float(dtype.min) < fill <= MASKED_BELOW


def _expands_queries(expand: ir.Node, source: ir.Value) -> bool:
    """Whether the target is ``[1, 1, <length of the source>, 1]``."""
    target = producer(expand.inputs[1], "Concat")
    if target is None or len(target.inputs) != 3:
        return False
    ones, length, one = target.inputs
    size = producer(length, "Shape")
    if size is None or ints_of(ones) != (1, 1) or ints_of(one) != (1,):
        return False
    read = size.inputs[0]
    if read is None or (int_attribute(size, "start", 0), int_attribute(size, "end", 0)) != (1, 2):
        return False
    if read is source:
        return True
    if source.shape is None or read.shape is None:
        return False
    unknown = ir.SymbolicDim(None)  # equal to itself, which says nothing of two inputs
    return source.shape[1] == read.shape[1] != unknown
