"""Reading the canonical nodes of a mask (see `write`) back, to the last operand."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..constants import int_attribute, ints_of, producer, scalar_of
from .fill import MASKED_BELOW
from .meaning import Mask


@dataclass(frozen=True)
class CanonicalMask:
    """What the mask of an attention is made of.

    Attributes:
        meaning: which keys are kept.
        bias: what is added besides, for example a position bias; None without.
    """

    meaning: Mask
    bias: ir.Value | None = None


def attention_mask(node: ir.Node) -> CanonicalMask | None:
    """What the mask of an Attention node says, when it is canonical; else None.

    No mask at all is one that hides nothing, or a causal one when the node says so itself.
    """
    value = node.inputs[3] if len(node.inputs) > 3 else None
    is_causal = int_attribute(node, "is_causal", 0) == 1
    if value is None:
        return CanonicalMask(Mask(ahead=0) if is_causal else Mask())
    return None if is_causal else read_mask(value)


def read_mask(value: ir.Value) -> CanonicalMask | None:
    """What a value says, when it is exactly the canonical chain, alone or added to a bias."""
    meaning = meaning_of(value)
    if meaning is not None:
        return CanonicalMask(meaning)
    add = producer(value, "Add")
    if add is None:
        return None
    for bias, mask in (add.inputs, add.inputs[::-1]):
        meaning = None if mask is None else meaning_of(mask)
        if meaning is not None:
            return CanonicalMask(meaning, bias)
    return None


def meaning_of(value: ir.Value) -> Mask | None:
    """The meaning of a canonical chain, None for anything else."""
    expand = producer(value, "Expand")
    where = producer(value if expand is None else expand.inputs[0], "Where")
    if where is None or not _has_canonical_fill(where):
        return None
    mask = _meaning_of_keep(where.inputs[0])
    if mask is None:
        return None
    spans_queries = mask.has_band or mask.pads_queries
    if expand is None:
        return mask if spans_queries else None
    return mask if _expands_queries(expand) and not spans_queries else None


def _has_canonical_fill(where: ir.Node) -> bool:
    keep, fill = scalar_of(where.inputs[1]), scalar_of(where.inputs[2])
    dtype = None if where.inputs[2] is None else where.inputs[2].dtype
    if keep != 0.0 or fill is None or dtype is None:
        return False
    return float(dtype.min) < fill <= MASKED_BELOW


def _expands_queries(expand: ir.Node) -> bool:
    """Whether the target is ``[1, 1, <some length>, 1]``."""
    target = producer(expand.inputs[1], "Concat")
    if target is None or len(target.inputs) != 3:
        return False
    ones, length, one = target.inputs
    return ints_of(ones) == (1, 1) and _is_length(length) and ints_of(one) == (1,)


def _is_length(value: ir.Value | None) -> bool:
    size = producer(value, "Shape")
    if size is None or size.inputs[0] is None or size.inputs[0].shape is None:
        return False
    last = len(size.inputs[0].shape)
    start = int_attribute(size, "start", 0)
    # dim 0 is the batch
    return 0 < start < last and int_attribute(size, "end", last) == start + 1


def _meaning_of_keep(keep: ir.Value | None) -> Mask | None:
    """What a boolean tree of the canonical parts keeps."""
    outer = producer(keep, "Unsqueeze")
    if outer is not None and ints_of(outer.inputs[1]) == (0, 1):
        band = _meaning_of_keep(outer.inputs[0])
        return band if band is not None and band.padding is None else None
    parts = _conjuncts(keep)
    rows = [token for part in parts if (token := _token(part, (1, 2))) is not None]
    columns = [token for part in parts if (token := _token(part, (1, 3))) is not None]
    bands = [band for part in parts if (band := _limit(part)) is not None]
    if len(rows) + len(columns) + len(bands) != len(parts) or len({*rows, *columns}) > 1:
        return None
    if columns and not rows:
        return None
    whole: Mask | None = Mask(padding=rows[0] if rows else None, pads_queries=bool(columns))
    for band in bands:
        whole = None if whole is None else whole.both(band)
    return whole


def _conjuncts(keep: ir.Value | None) -> list[ir.Value | None]:
    both = producer(keep, "And")
    if both is None:
        return [keep]
    return [*_conjuncts(both.inputs[0]), *_conjuncts(both.inputs[1])]


def _token(part: ir.Value | None, axes: tuple[int, int]) -> ir.Value | None:
    """The padding input of ``Unsqueeze(Cast(input, bool), axes)``."""
    unsqueeze = producer(part, "Unsqueeze")
    cast = None if unsqueeze is None else producer(unsqueeze.inputs[0], "Cast")
    if unsqueeze is None or cast is None or ints_of(unsqueeze.inputs[1]) != axes:
        return None
    token = cast.inputs[0]
    is_bool = int_attribute(cast, "to", 0) == ir.DataType.BOOL
    return token if token is not None and token.is_graph_input() and is_bool else None


def _limit(part: ir.Value | None) -> Mask | None:
    """One side of a band."""
    compare = producer(part, "GreaterOrEqual", "LessOrEqual")
    if compare is None:
        return None
    keys, moved = producer(compare.inputs[0], "Range"), compare.inputs[1]
    shift = producer(moved, "Add", "Sub")
    by = 0
    if shift is not None:
        number = scalar_of(shift.inputs[1])
        if number is None:
            return None
        by, moved = int(number) * (1 if shift.op_type == "Add" else -1), shift.inputs[0]
    if keys is None or not _are_last(moved, keys):
        return None
    return Mask(back=-by) if compare.op_type == "GreaterOrEqual" else Mask(ahead=by)


def _are_last(column: ir.Value | None, keys: ir.Node) -> bool:
    """Whether a column holds the last positions of ``Range(0, total, 1)``, or all of them."""
    unsqueeze = producer(column, "Unsqueeze")
    if unsqueeze is None or ints_of(unsqueeze.inputs[1]) != (1,):
        return False
    first, total, step = keys.inputs
    if scalar_of(first) != 0 or scalar_of(step) != 1:
        return False
    queries = producer(unsqueeze.inputs[0], "Range")
    # Wherever it starts: a range that ends with the keys is as long as there are queries.
    ends_with_keys = queries is not None and queries.inputs[1] is total
    return queries is not None and ends_with_keys and scalar_of(queries.inputs[2]) == 1
