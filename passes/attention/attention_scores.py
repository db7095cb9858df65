"""Walk from the softmax of an attention back to Q K^T: scales, masks, biases, fills and caps.

    scores = softcap(scale * Q K^T) + terms

Walking back tolerates what varies independently between exporters: the scale sits on Q, on K, on
both or on the scores; K is transposed alone or together with the head split; several masks and
position biases are added or filled in, in any order, or computed in another precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from ..constants import permutation_of, producer, scalar_of, static_dim

_DEPTH = 12
"""Additions and scalings between the product and the softmax; six is the most seen."""

_WEAKEST_FILL = -1e3
"""From here on exp(fill - score) is 0 in every precision."""

_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)
"""Casts among these change the precision of a computation; casts to 8 bits quantise."""


Order = tuple[int, ...]


class Miss(Exception):  # noqa: N818  (control flow between the matcher and its pass)
    """Why a candidate is not attention: the first difference met."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """What is added to the scores, or filled in.

    Attributes:
        value: an additive term, or the condition of a fill.
        factor: scalar the term is multiplied with.
        fill: the number in hidden places when this is a fill.
        fill_where: value of the condition at hidden places.
    """

    value: ir.Value
    factor: float = 1.0
    fill: float | None = None
    fill_where: bool = True


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What goes into the softmax.

    Attributes:
        query: Q.
        key: K with its axes in any order.
        key_order: the permutation that makes it [batch, kv_heads, keys, head_dim].
        scale: multiplies Q K^T.
        row_scales: operators Mul and Div, with what they scale rows of scores by, so rows of Q.
        terms: what is added afterwards, in the order of the graph.
        softcap: c of c * tanh(scores / c), 0 without.
    """

    query: ir.Value
    key: ir.Value
    key_order: Order
    scale: float
    row_scales: tuple[tuple[str, ir.Value], ...] = ()
    terms: tuple[Term, ...] = ()
    softcap: float = 0.0

    def scaled(self, factor: float) -> Scores:
        """All of it, terms included, times a number.

        Raises:
            Miss: when the scores are capped, or what is hidden would show.
        """
        if factor == 1.0:
            return self
        if self.softcap:
            raise Miss(f"the scores are multiplied by {factor:g} after they were capped")
        terms = tuple(_scaled(term, factor) for term in self.terms)
        return replace(self, scale=self.scale * factor, terms=terms)


def _scaled(term: Term, factor: float) -> Term:
    if term.fill is None:
        return replace(term, factor=term.factor * factor)
    if term.fill * factor > _WEAKEST_FILL:
        raise Miss(f"hidden scores of {term.fill:g} are multiplied by {factor:g}")
    return replace(term, fill=term.fill * factor)


def required(value: ir.Value | None) -> ir.Value:
    """The value of an input that must be there.

    Raises:
        Miss: when it is absent.
    """
    if value is None:
        raise Miss("an input is absent")
    return value


def uncast(value: ir.Value) -> ir.Value:
    """The value before casts between floating-point types."""
    node = producer(value, "Cast")
    while node is not None and node.inputs[0] is not None:
        source = node.inputs[0].dtype
        if source not in _FLOATS or value.dtype not in _FLOATS:
            break
        value = node.inputs[0]
        node = producer(value, "Cast")
    return value


def read_scores(value: ir.Value) -> Scores:
    """Read the input of a softmax.

    Raises:
        Miss: naming the first thing that is not a part of attention.
    """
    return _read(value, _DEPTH)


def _read(value: ir.Value, depth: int) -> Scores:
    """Scores, scale and terms behind a value."""
    if not depth:
        raise Miss("more steps between Q K^T and the softmax than expected")
    value = uncast(value)
    node = value.producer()
    if node is not None and node.domain in ("", "ai.onnx"):
        if node.op_type == "MatMul":
            return _product(node)
        if node.op_type in _READERS:
            return _READERS[node.op_type](node, depth - 1)
    raise Miss(f"the scores come from {origin(value)}, not from MatMul(Q, K^T)")


def _read_scaled(node: ir.Node, depth: int) -> Scores:
    inner, factor = _strip_scale(node.outputs[0])
    if inner is node.outputs[0]:
        return _read_row_scaled(node, depth)
    capped = _softcap(inner, factor)
    if capped is None:
        return _read(inner, depth).scaled(factor)
    scores = _read(capped, depth)
    if scores.terms or scores.softcap:
        raise Miss(f"the scores are capped after they were masked, at {node.name!r}")
    return replace(scores, softcap=factor)


def _read_row_scaled(node: ir.Node, depth: int) -> Scores:
    """Rows of scores times a number each: a temperature for every head."""
    left, right = required(node.inputs[0]), required(node.inputs[1])
    if node.op_type == "Mul" and _is_column(left):
        left, right = right, left
    if not _is_column(right):
        raise Miss(f"{node.op_type} {node.name!r} scales the scores by more than one number a row")
    scores = _read(left, depth)
    if scores.terms or scores.softcap:
        raise Miss(f"rows are scaled after they were masked or capped, at {node.name!r}")
    return replace(scores, row_scales=(*scores.row_scales, (node.op_type, right)))


def _is_column(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) > 1 and static_dim(value, -1) == 1


def _softcap(value: ir.Value, factor: float) -> ir.Value | None:
    """The x of ``tanh(x / factor)``."""
    tanh = producer(value, "Tanh")
    if tanh is None:
        return None
    inner, divisor = _strip_scale(required(tanh.inputs[0]))
    if abs(divisor * factor - 1) > 1e-3:
        raise Miss(f"tanh of the scores is scaled by {factor:g} and {divisor:g}")
    return inner


def _read_sum(node: ir.Node, depth: int) -> Scores:
    readings: list[Scores] = []
    misses: list[Miss] = []
    for side, other in ((0, 1), (1, 0)):
        try:
            scores = _read(required(node.inputs[side]), depth)
        except Miss as miss:
            misses.append(miss)
            continue
        term = Term(value=uncast(required(node.inputs[other])))
        readings.append(replace(scores, terms=(*scores.terms, term)))
    if not readings:
        raise misses[0]
    if len(readings) == 2:
        raise Miss(f"cannot tell scores from mask at {node.op_type} {node.name!r}")
    return readings[0]


def _read_difference(node: ir.Node, depth: int) -> Scores:
    scores = _read(required(node.inputs[0]), depth)
    term = Term(value=uncast(required(node.inputs[1])), factor=-1.0)
    return replace(scores, terms=(*scores.terms, term))


def _read_fill(node: ir.Node, depth: int) -> Scores:
    condition, chosen, other = (required(value) for value in node.inputs[:3])
    for fill, scores, where in ((chosen, other, True), (other, chosen, False)):
        number = scalar_of(fill)
        if number is None:
            continue
        if number > _WEAKEST_FILL:
            raise Miss(f"Where {node.name!r} fills hidden scores with {number:g}")
        term = Term(value=condition, fill=number, fill_where=where)
        inner = _read(scores, depth)
        return replace(inner, terms=(*inner.terms, term))
    raise Miss(f"Where {node.name!r} fills hidden scores with no constant")


def _read_floor(node: ir.Node, depth: int) -> Scores:
    """``Max(scores, lowest)``, which older decoders use against overflow."""
    for index, value in enumerate(node.inputs):
        floor = scalar_of(value)
        if floor is not None and floor < -1e30 and len(node.inputs) == 2:
            return _read(required(node.inputs[1 - index]), depth)
    raise Miss(f"the scores are clipped at Max {node.name!r}")


_READERS = {
    "Mul": _read_scaled,
    "Div": _read_scaled,
    "Add": _read_sum,
    "Sub": _read_difference,
    "Where": _read_fill,
    "Max": _read_floor,
}


def _product(node: ir.Node) -> Scores:
    query, query_scale = _strip_scale(uncast(required(node.inputs[0])))
    transposed, key_scale = _strip_scale(uncast(required(node.inputs[1])))
    key, order, inner_scale = _untranspose(uncast(transposed))
    return Scores(
        query=uncast(query),
        key=key,
        key_order=order,
        scale=query_scale * key_scale * inner_scale,
    )


def _strip_scale(value: ir.Value) -> tuple[ir.Value, float]:
    """The tensor under ``Mul(x, constant)`` or ``Div(x, constant)``, and the factor."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return value, 1.0
    left, right = required(node.inputs[0]), required(node.inputs[1])
    factor = scalar_of(right)
    if factor is not None and (node.op_type == "Mul" or factor != 0):
        return left, factor if node.op_type == "Mul" else 1.0 / factor
    factor = scalar_of(left) if node.op_type == "Mul" else None
    return (right, factor) if factor is not None else (value, 1.0)


def _untranspose(transposed: ir.Value) -> tuple[ir.Value, Order, float]:
    """K, the order of axes that makes it [batch, heads, keys, head_dim], and a scale below."""
    node = producer(transposed, "Transpose")
    permutation = () if node is None else permutation_of(node)
    if node is None or len(permutation) < 3:  # computed with the keys last
        rank = 4 if transposed.shape is None else len(transposed.shape)
        return transposed, (*range(rank - 2), rank - 1, rank - 2), 1.0
    key, scale = _strip_scale(uncast(required(node.inputs[0])))
    *batch, size, keys = permutation
    return uncast(key), (*batch, keys, size), scale


def origin(value: ir.Value) -> str:
    """What produces a value, for a reason."""
    node = value.producer()
    return f"{node.op_type} {node.name!r}" if node is not None else f"the value {value.name!r}"
