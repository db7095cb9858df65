"""Read an attention core backwards, from the MatMul that weighs V to the tensors Q, K and V.

    softmax(scale * Q K^T + terms) V

`attention_scores` reads what is inside of the softmax; here it is guarded against rows without any
key, computed in another precision, and its shapes are those that the operator takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..constants import int_attribute, producer, scalar_of, static_dim
from .attention_scores import Miss, Order, Term, read_scores, required, uncast


@dataclass(frozen=True, kw_only=True)
class Core:
    """An attention core; without a head axis (three dimensions) it has one head.

    Attributes:
        query: [batch, heads, queries, head_dim].
        key: K with its axes in any order.
        key_order: the permutation that makes it [batch, kv_heads, keys, head_dim].
        value: [batch, kv_heads, keys, head_dim].
        scale: multiplies Q K^T.
        row_scales: operators Mul and Div, with what they scale rows of Q by.
        terms: what is added afterwards, in the order of the graph.
        softcap: c of c * tanh(scores / c), 0 without.
    """

    query: ir.Value
    key: ir.Value
    key_order: Order
    value: ir.Value
    scale: float
    row_scales: tuple[tuple[str, ir.Value], ...] = ()
    terms: tuple[Term, ...] = ()
    softcap: float = 0.0

    @property
    def rank(self) -> int:
        """Four, or three for a single head."""
        return len(self.key_order)

    @property
    def key_shape(self) -> ir.Shape:
        """Of K in the order [batch, kv_heads, keys, head_dim]."""
        assert self.key.shape is not None
        return ir.Shape([self.key.shape[axis] for axis in self.key_order])


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
    scores = read_scores(required(softmax.inputs[0]))
    value = uncast(required(node.inputs[1]))
    if scores.scale <= 0:
        raise Miss(f"the scale is {scores.scale:g}, expected a positive one")
    core = Core(value=value, **vars(scores))
    _check_shapes(core)
    return core


def _probabilities(value: ir.Value | None) -> ir.Value | None:
    """Skip ``Where(IsNaN(p), 0, p)`` and casts between floating-point types."""
    value = uncast(value) if value is not None else None
    where = producer(value, "Where")
    if where is None:
        return value
    guard = producer(where.inputs[0], "IsNaN")
    guarded = guard is not None and guard.inputs[0] is where.inputs[2]
    if not guarded or scalar_of(where.inputs[1]) != 0.0 or where.inputs[2] is None:
        return value
    return uncast(where.inputs[2])


def _check_shapes(core: Core) -> None:
    rank = core.rank
    if rank not in (3, 4):
        raise Miss(f"K has {rank} dimensions, expected 4, or 3 for a single head")
    for name, tensor in (("Q", core.query), ("K", core.key), ("V", core.value)):
        if tensor.shape is None or len(tensor.shape) != rank:
            raise Miss(f"{name} has shape {tensor.shape}, expected {rank} dimensions")
    _check_batch("K", core.key, core.key_order[0], core.query)
    _check_batch("V", core.value, 0, core.query)
    if rank == 4:
        _check_heads(core)
    for term in core.terms:
        _check_term(term.value, core.query, rank, len(term.value.shape or ()) - 1)
        dtype = term.value.dtype
        if term.fill is None and dtype is not None and not dtype.is_floating_point():
            raise Miss(f"{dtype} {term.value.name!r} is added to the scores, expected a float mask")
        if static_dim(core.key, core.key_order[-2]) == 1 and static_dim(term.value, -1) != 1:
            raise Miss(f"the mask has shape {term.value.shape}, but there is 1 key")
    for _, scale in core.row_scales:
        _check_term(scale, core.query, rank, len(scale.shape or ()) - 1)


def _check_heads(core: Core) -> None:
    """MatMul broadcasts heads one by one, Attention shares one K/V head among all queries."""
    heads = static_dim(core.query, 1)
    kv_heads = (static_dim(core.key, core.key_order[1]), static_dim(core.value, 1))
    if heads is None or kv_heads not in ((heads, heads), (1, 1)):
        raise Miss(f"Q has {heads} heads, K {kv_heads[0]} and V {kv_heads[1]}")


def _check_batch(name: str, other: ir.Value, axis: int, query: ir.Value) -> None:
    """MatMul broadcasts a batch of 1, Attention does not: sizes must be equal, not just fit."""
    ours, theirs = (_dim(query, 0), _dim(other, axis))
    if ours is None or ours != theirs:
        raise Miss(
            f"the batch of Q is {ours or '?'} and that of {name} {theirs or '?'}: nothing says "
            "that they are equal; give both one name in the shapes of the inputs"
        )


def _check_term(term: ir.Value, query: ir.Value, rank: int, axes: int) -> None:
    """A mask is broadcast to the scores, never the scores to the mask's batch, heads or rows."""
    if term.shape is None or len(term.shape) > rank:
        raise Miss(f"the mask has shape {term.shape}, expected at most {rank} dimensions")
    for axis in range(axes):
        place = axis + rank - len(term.shape)
        size = static_dim(query, place)
        if size == 1 and static_dim(term, axis) != 1:
            raise Miss(f"the mask of shape {term.shape} is larger than Q of shape {query.shape}")
        if place == 0 and size is None and static_dim(term, 0) != 1:
            _check_batch("the mask", term, 0, query)


def _dim(value: ir.Value, axis: int) -> int | str | None:
    """A size that can be compared: its number or its name."""
    assert value.shape is not None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else dim.value
