"""Attention-23 and -24: operands and attributes that are refused, dropped or read otherwise."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..constants import int_attribute, producer, static_dim
from .finding import Hit, Rule, Subject, name_of, operand

_KEY, _VALUE, _MASK, _PAST, _LENGTHS = 1, 2, 3, (4, 5), 6
_VIEWS = ("Reshape", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze", "Slice")
_SIZE_MOVES = ("Concat", "Cast", "Squeeze", "Unsqueeze", "Gather", "Slice", "Identity", "Reshape")
_SIZE_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Neg", "Where", "Max", "Min")
_DROPPED = "TensorRT-RTX 1.7.1 parses this without a word"


def _lengths_dropped(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        lengths = operand(node, _LENGTHS)
        if lengths is not None:
            yield (
                name_of(node),
                f"nonpad_kv_seqlen is {lengths.name!r}: {_DROPPED} and attends to all keys, unused "
                "ones too; fuselage build sets the lengths in the network, for other builders mask "
                "the keys with a boolean attn_mask",
            )


def _causal_corner(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        if not int_attribute(node, "is_causal", 0) or operand(node, _LENGTHS) is not None:
            continue
        queries, keys = _lengths(node)
        if queries is None or keys is None or queries == keys:
            continue
        if isinstance(queries, int) and isinstance(keys, int) and queries > keys:
            continue
        yield (
            name_of(node),
            f"is_causal with {queries} queries and {keys} keys: the mask starts in the upper left "
            "corner, so a single query sees the first key alone; a decoder that appends to a "
            "cache needs an explicit attn_mask",
        )


def _lengths(node: ir.Node) -> tuple[int | str | None, int | str | None]:
    """Number of queries and of keys, a symbol, or None where they are unknown."""
    query, key = operand(node, 0), operand(node, _KEY)
    if query is None or key is None or query.shape is None or key.shape is None:
        return None, None
    maker = producer(key, "TensorScatter", "Concat")
    if maker is not None and maker.inputs[0] is not None and maker.inputs[0].producer() is None:
        return "new", "cached and new"
    dims = (query.shape[-2], key.shape[-2])
    queries, keys = (dim if isinstance(dim, int) else dim.value for dim in dims)
    return queries, keys


def _mask_and_causal(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        if int_attribute(node, "is_causal", 0) and operand(node, _MASK) is not None:
            yield (
                name_of(node),
                "is_causal together with attn_mask: the parser refuses the pair; put the triangle "
                "into the mask and clear is_causal",
            )


def _cache_operands(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        pasts = [operand(node, index) for index in _PAST]
        if any(pasts):
            yield (
                name_of(node),
                "past_key and past_value: the parser refuses them; append with TensorScatter or "
                "Concat in front of Attention",
            )
        elif len(node.outputs) > 1:
            yield (
                name_of(node),
                f"{len(node.outputs)} outputs: the parser takes Attention with one; give present "
                "keys, values and scores by nodes of their own",
            )


def _attributes(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        softcap = node.attributes.get_float("softcap", 0.0)
        if softcap:
            yield (
                name_of(node),
                f"softcap {softcap:g}: the parser refuses it; spell the attention out with Tanh, "
                "which TensorRT builds from single kernels",
            )
        if "softmax_precision" in node.attributes:
            yield (
                name_of(node),
                "softmax_precision: the parser refuses it; remove it, fused attention sums in "
                "float32 anyway",
            )


def _mask_type(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        mask, query = subject.dtype(operand(node, _MASK)), subject.dtype(operand(node, 0))
        if None in (mask, query) or mask in (ir.DataType.BOOL, query):
            continue
        assert mask is not None
        assert query is not None
        yield (
            name_of(node),
            f"attn_mask of {mask.name} on queries of {query.name}: the engine does not build; use "
            "a boolean mask, or cast it to the type of the queries",
        )


def _shared_operand(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        query, key = operand(node, 0), operand(node, _KEY)
        if query is None or key is None or _origin(query) is not _origin(key):
            continue
        if _viewed(query) or _viewed(key):
            continue
        yield (
            name_of(node),
            f"queries and keys are views of one tensor, {_origin(query).name!r}: the builder of "
            "TensorRT-RTX 1.7.1 ends the process with a segmentation fault; let a Mul on the "
            "queries take the scale",
        )


def _origin(value: ir.Value) -> ir.Value:
    """The tensor behind operators that move or retype values."""
    while (maker := producer(value, *_VIEWS)) is not None and maker.inputs[0] is not None:
        value = maker.inputs[0]
    return value


def _viewed(value: ir.Value) -> bool:
    """Whether a proper part is cut out on the way: a packed projection, whose parts differ."""
    while (maker := producer(value, *_VIEWS)) is not None and maker.inputs[0] is not None:
        whole, part = maker.inputs[0].shape, value.shape
        if maker.op_type == "Slice" and (whole is None or part is None or whole != part):
            return True
        value = maker.inputs[0]
    return False


def _unknown_heads(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        for role, value in zip(("query", "key", "value"), node.inputs, strict=False):
            if value is None or value.shape is None or len(value.shape) != 4:
                continue
            split = _head_split(value)
            if static_dim(value, 1) is None and split is not None and not _is_solvable(split):
                yield (
                    name_of(node),
                    f"the heads of the {role} are what Reshape {name_of(split)} has left over, "
                    "which TensorRT cannot work out: 'query number of heads must be divisible by "
                    "key/value number of heads'; write the number of heads into the shape",
                )
                break


def _head_split(value: ir.Value) -> ir.Node | None:
    maker = value.producer()
    while maker is not None and maker.op_type in ("Transpose", "Concat", "RotaryEmbedding", "Cast"):
        source = maker.inputs[-1] if maker.op_type == "Concat" else maker.inputs[0]
        maker = None if source is None else source.producer()
    return maker if maker is not None and maker.op_type == "Reshape" else None


def _is_solvable(split: ir.Node) -> bool:
    """TensorRT divides a static width; a size that was computed hides the others from it."""
    source = split.inputs[0]
    if source is None or source.shape is None or not isinstance(source.shape[-1], int):
        return False
    waiting = [split.inputs[1]]
    while waiting:
        maker = producer(waiting.pop(), *_SIZE_MOVES, *_SIZE_ARITHMETIC)
        if maker is not None and maker.op_type in _SIZE_ARITHMETIC:
            return False
        waiting += [] if maker is None else maker.inputs
    return True


RULES = (
    Rule(
        name="attention-lengths-dropped",
        severity="error",
        title="Attention-24 with nonpad_kv_seqlen, which the parser drops",
        check=_lengths_dropped,
    ),
    Rule(
        name="attention-causal-corner",
        severity="warning",
        title="is_causal where there are more keys than queries: the mask starts at the first key",
        check=_causal_corner,
    ),
    Rule(
        name="attention-mask-and-causal",
        severity="error",
        title="attn_mask together with is_causal",
        check=_mask_and_causal,
    ),
    Rule(
        name="attention-cache",
        severity="error",
        title="Attention with past keys or with several outputs",
        check=_cache_operands,
    ),
    Rule(
        name="attention-attribute",
        severity="error",
        title="softcap or softmax_precision on Attention",
        check=_attributes,
    ),
    Rule(
        name="attention-mask-type",
        severity="error",
        title="attn_mask neither boolean nor of the type of the queries",
        check=_mask_type,
    ),
    Rule(
        name="attention-shared-operand",
        severity="error",
        title="queries and keys that are views of one tensor: the builder crashes",
        check=_shared_operand,
    ),
    Rule(
        name="attention-unknown-heads",
        severity="error",
        title="a number of heads that TensorRT cannot work out",
        check=_unknown_heads,
    ),
)
