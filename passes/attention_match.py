"""Read an attention core backwards, from the MatMul that weighs V to the tensors Q, K and V.

    softmax(scale * Q K^T + terms) V

Walking back tolerates what varies independently between exporters: the scale sits on Q, on K, on
both or on the scores; K is transposed alone or together with the head split; several masks and
position biases are added or filled in, in any order; the softmax is guarded against rows without
any key, or computed in another precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from .constants import int_attribute, ints_attribute, producer, scalar_of, static_dim

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
class Core:
    """An attention core.

    Attributes:
        query: [batch, heads, queries, head_dim].
        key: K with its axes in any order.
        key_order: the permutation that makes it [batch, kv_heads, keys, head_dim].
        value: [batch, kv_heads, keys, head_dim].
        scale: multiplies Q K^T.
        terms: what is added afterwards, in the order of the graph.
        softcap: c of c * tanh(scores / c), 0 without.
    """

    query: ir.Value
    key: ir.Value
    key_order: Order
    value: ir.Value
    scale: float
    terms: tuple[Term, ...] = ()
    softcap: float = 0.0

    def key_dim(self, axis: int) -> int | ir.SymbolicDim:
        """Size of an axis of [batch, kv_heads, keys, head_dim]."""
        assert self.key.shape is not None
        return self.key.shape[self.key_order[axis]]


@dataclass(frozen=True, kw_only=True)
class _Scores:
    query: ir.Value
    key: ir.Value
    key_order: Order
    scale: float
    terms: tuple[Term, ...] = ()
    softcap: float = 0.0

    def scaled(self, factor: float) -> _Scores:
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


def softmax_of(node: ir.Node) -> ir.Node | None:
    """The Softmax whose weights the node multiplies with V; None when it is no candidate."""
    if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx"):
        return None
    return producer(_probabilities(node.inputs[0]), "Softmax")


def match_core(node: ir.Node) -> Core:
    """Read the core that ends in a MatMul.

    Raises:
        Miss: naming the first thing that is not attention.
    """
    softmax = softmax_of(node)
    assert softmax is not None
    rank = len(softmax.outputs[0].shape) if softmax.outputs[0].shape is not None else 4
    axis = int_attribute(softmax, "axis", -1)
    if axis not in (-1, rank - 1):
        raise Miss(f"softmax is over axis {axis}, not the last of {rank}")
    scores = _read(required(softmax.inputs[0]), _DEPTH)
    value = _uncast(required(node.inputs[1]))
    if scores.scale <= 0:
        raise Miss(f"the scale is {scores.scale:g}, expected a positive one")
    core = Core(value=value, **vars(scores))
    _check_shapes(core)
    return core


def required(value: ir.Value | None) -> ir.Value:
    """The value of an input that must be there.

    Raises:
        Miss: when it is absent.
    """
    if value is None:
        raise Miss("an input is absent")
    return value


def _probabilities(value: ir.Value | None) -> ir.Value | None:
    """Skip ``Where(IsNaN(p), 0, p)`` and casts between floating-point types."""
    value = _uncast(value) if value is not None else None
    where = producer(value, "Where")
    if where is None:
        return value
    guard = producer(where.inputs[0], "IsNaN")
    guarded = guard is not None and guard.inputs[0] is where.inputs[2]
    if not guarded or scalar_of(where.inputs[1]) != 0.0 or where.inputs[2] is None:
        return value
    return _uncast(where.inputs[2])


def _uncast(value: ir.Value) -> ir.Value:
    """The value before casts between floating-point types."""
    node = producer(value, "Cast")
    while node is not None and node.inputs[0] is not None:
        source = node.inputs[0].dtype
        if source not in _FLOATS or value.dtype not in _FLOATS:
            break
        value = node.inputs[0]
        node = producer(value, "Cast")
    return value


def _read(value: ir.Value, depth: int) -> _Scores:
    """Scores, scale and terms behind a value."""
    if not depth:
        raise Miss("more steps between Q K^T and the softmax than expected")
    value = _uncast(value)
    node = value.producer()
    if node is not None and node.domain in ("", "ai.onnx"):
        if node.op_type == "MatMul":
            return _product(node)
        if node.op_type in _READERS:
            return _READERS[node.op_type](node, depth - 1)
    raise Miss(f"the scores come from {origin(value)}, not from MatMul(Q, K^T)")


def _read_scaled(node: ir.Node, depth: int) -> _Scores:
    inner, factor = _strip_scale(node.outputs[0])
    if inner is node.outputs[0]:
        raise Miss(f"{node.op_type} {node.name!r} scales the scores by more than one number")
    capped = _softcap(inner, factor)
    if capped is None:
        return _read(inner, depth).scaled(factor)
    scores = _read(capped, depth)
    if scores.terms or scores.softcap:
        raise Miss(f"the scores are capped after they were masked, at {node.name!r}")
    return replace(scores, softcap=factor)


def _softcap(value: ir.Value, factor: float) -> ir.Value | None:
    """The x of ``tanh(x / factor)``."""
    tanh = producer(value, "Tanh")
    if tanh is None:
        return None
    inner, divisor = _strip_scale(required(tanh.inputs[0]))
    if abs(divisor * factor - 1) > 1e-3:
        raise Miss(f"tanh of the scores is scaled by {factor:g} and {divisor:g}")
    return inner


def _read_sum(node: ir.Node, depth: int) -> _Scores:
    readings: list[_Scores] = []
    misses: list[Miss] = []
    for side, other in ((0, 1), (1, 0)):
        try:
            scores = _read(required(node.inputs[side]), depth)
        except Miss as miss:
            misses.append(miss)
            continue
        term = Term(value=_uncast(required(node.inputs[other])))
        readings.append(replace(scores, terms=(*scores.terms, term)))
    if not readings:
        raise misses[0]
    if len(readings) == 2:
        raise Miss(f"cannot tell scores from mask at {node.op_type} {node.name!r}")
    return readings[0]


def _read_difference(node: ir.Node, depth: int) -> _Scores:
    scores = _read(required(node.inputs[0]), depth)
    term = Term(value=_uncast(required(node.inputs[1])), factor=-1.0)
    return replace(scores, terms=(*scores.terms, term))


def _read_fill(node: ir.Node, depth: int) -> _Scores:
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


def _read_floor(node: ir.Node, depth: int) -> _Scores:
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


def _product(node: ir.Node) -> _Scores:
    query, query_scale = _strip_scale(_uncast(required(node.inputs[0])))
    transposed, key_scale = _strip_scale(_uncast(required(node.inputs[1])))
    key, order, inner_scale = _untranspose(_uncast(transposed))
    return _Scores(
        query=_uncast(query),
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
    permutation = () if node is None else ints_attribute(node, "perm")
    if node is None or len(permutation) != 4:
        return transposed, (0, 1, 3, 2), 1.0  # computed with the keys last
    key, scale = _strip_scale(_uncast(required(node.inputs[0])))
    batch, heads, size, keys = permutation
    return _uncast(key), (batch, heads, keys, size), scale


def origin(value: ir.Value) -> str:
    """What produces a value, for a reason."""
    node = value.producer()
    return f"{node.op_type} {node.name!r}" if node is not None else f"the value {value.name!r}"


def _check_shapes(core: Core) -> None:
    for name, tensor in (("Q", core.query), ("K", core.key), ("V", core.value)):
        if tensor.shape is None or len(tensor.shape) != 4:
            raise Miss(f"{name} has shape {tensor.shape}, expected 4 dimensions")
    _check_batch(core.query, core.key, core.key_order[0])
    _check_batch(core.query, core.value, 0)
    heads = static_dim(core.query, 1)
    kv_heads = (static_dim(core.key, core.key_order[1]), static_dim(core.value, 1))
    # MatMul broadcasts heads one by one, Attention shares one K/V head among all queries.
    if heads is None or kv_heads not in ((heads, heads), (1, 1)):
        raise Miss(f"Q has {heads} heads, K {kv_heads[0]} and V {kv_heads[1]}")
    for term in core.terms:
        _check_term(term.value, core.query)


def _check_batch(query: ir.Value, other: ir.Value, axis: int) -> None:
    """MatMul broadcasts a batch of 1, Attention does not."""
    ours, theirs = static_dim(query, 0), static_dim(other, axis)
    if (ours == 1 or theirs == 1) and ours != theirs:
        raise Miss(f"Q has shape {query.shape}, but K or V has {other.shape}")


def _check_term(term: ir.Value, query: ir.Value) -> None:
    """A mask is broadcast to the batch and heads of the scores, never the scores to the mask's."""
    if term.shape is None or len(term.shape) > 4:
        raise Miss(f"the mask has shape {term.shape}, expected at most 4 dimensions")
    for axis in range(len(term.shape) - 2):
        size = static_dim(query, axis + 4 - len(term.shape))
        if size == 1 and static_dim(term, axis) != 1:
            raise Miss(f"the mask of shape {term.shape} is larger than Q of shape {query.shape}")
