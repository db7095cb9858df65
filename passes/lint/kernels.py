"""What keeps attention out of a fused kernel, and what its heads must be."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..constants import int_attribute, static_dim
from .finding import Hit, Rule, Subject, name_of, operand

_SMALLEST, _LARGEST = 9, 256
"""Head sizes with a fused kernel in TensorRT-RTX 1.7.1: 4, 8, 257 and more were refused."""
_BETWEEN = ("Add", "Sub", "Mul", "Div", "Where")
_GUARDS = ("Cast", "IsNaN", "Where", "Dropout", "Identity")
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_UNFUSED = "it is built from single kernels, with a score matrix in memory"


def _float32(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        if subject.dtype(operand(node, 0)) == ir.DataType.FLOAT:
            yield (
                name_of(node),
                "Attention in float32: no GPU has a fused kernel for it, so it does not build "
                f"unless marked decomposable, as fuselage does, and then {_UNFUSED}; "
                "lower the graph to float16 or bfloat16",
            )


def _head_size(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        size = _sizes(node)[0]
        if size is not None and not _SMALLEST <= size <= _LARGEST:
            yield (
                name_of(node),
                f"heads of size {size}: fused kernels exist from {_SMALLEST} to {_LARGEST}, so it "
                f"does not build unless marked decomposable, and then {_UNFUSED}; choose another "
                "number of heads",
            )


def _heads(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Attention"):
        (size, value_size), (queries, keys) = _sizes(node), _counts(node)
        if size is not None and value_size is not None and size != value_size:
            yield (
                name_of(node),
                f"heads of size {size} in queries and {value_size} in values: the parser refuses "
                "sizes that differ; pad the values with zeros and slice the result",
            )
        if queries is not None and keys and queries % keys:
            yield (
                name_of(node),
                f"{queries} query heads on {keys} key heads: the parser refuses a number that is "
                "no multiple; repeat the key heads",
            )


def _counts(node: ir.Node) -> tuple[int | None, int | None]:
    query, key = operand(node, 0), operand(node, 1)
    if query is None or key is None or query.shape is None:
        return None, None
    if len(query.shape) == 4:
        return static_dim(query, 1), static_dim(key, 1)
    return int_attribute(node, "q_num_heads", 0) or None, int_attribute(node, "kv_num_heads", 0)


def _sizes(node: ir.Node) -> tuple[int | None, int | None]:
    """Size of a head in queries and in values."""
    query, value = operand(node, 0), operand(node, 2)
    if query is None or value is None or query.shape is None:
        return None, None
    if len(query.shape) == 4:
        return static_dim(query, 3), static_dim(value, 3)
    queries, keys = _counts(node)
    widths = static_dim(query, 2), static_dim(value, 2)
    if not queries or not keys or None in widths:
        return None, None
    return widths[0] // queries, widths[1] // keys  # type: ignore[operator]


def _softmax_float32(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Softmax"):
        if node.outputs[0].dtype != ir.DataType.FLOAT:
            continue
        scores, chain, product = _scores(node), *_product(node)
        if scores is None or product is None:
            continue
        reason = _unfused(scores, chain, product)
        if reason is not None:
            yield (
                name_of(node),
                f"Softmax kept in float32 between 16-bit products, {reason}: the attention is not "
                f"fused, {_UNFUSED}, or the engine does not build; let Softmax run in 16 bits, it "
                "sums in float32 inside",
            )


def _unfused(scores: ir.Node, chain: tuple[ir.Node, ...], product: ir.Node) -> str | None:
    types = [value.dtype for node in (scores, product) for value in node.outputs]
    if not any(dtype in _HALF for dtype in types):
        # All in float32 as asked for, unless the operands were 16 bits wide before.
        return None
    if any(node.op_type in ("IsNaN", "Where") for node in chain):
        return "with a NaN guard behind it"
    if types[0] == ir.DataType.FLOAT:
        return "with scores in float32 too"
    if types[1] == ir.DataType.FLOAT:
        return "with the product of the values in float32 too"
    return None


def _scores(softmax: ir.Node) -> ir.Node | None:
    """The product of queries and keys, behind scale, mask and casts."""
    waiting, seen = list(softmax.inputs), set[ir.Value | None]()
    while waiting:
        value = waiting.pop()
        maker = None if value is None or value in seen else value.producer()
        seen.add(value)
        if maker is None:
            continue
        if maker.op_type == "MatMul":
            return maker
        if maker.op_type in (*_BETWEEN, "Cast"):
            waiting += maker.inputs
    return None


def _product(softmax: ir.Node) -> tuple[tuple[ir.Node, ...], ir.Node | None]:
    """What lies between Softmax and the product with the values, and that product."""
    chain: list[ir.Node] = []
    readers = [use.node for use in softmax.outputs[0].uses()]
    while readers and all(node.op_type in _GUARDS for node in readers):
        chain += readers
        last = max(readers, key=lambda node: node.op_type != "IsNaN")
        readers = [use.node for use in last.outputs[0].uses()]
    product = next((node for node in readers if node.op_type == "MatMul"), None)
    return tuple(chain), product


RULES = (
    Rule(
        name="attention-float32",
        severity="warning",
        title="Attention in float32: no fused kernel",
        check=_float32,
    ),
    Rule(
        name="attention-head-size",
        severity="warning",
        title="heads smaller than 9 or larger than 256: no fused kernel",
        check=_head_size,
    ),
    Rule(
        name="attention-heads",
        severity="error",
        title="head sizes that differ, or head counts that are no multiple",
        check=_heads,
    ),
    Rule(
        name="softmax-float32",
        severity="warning",
        title="Softmax kept in float32 in a form that is not fused",
        check=_softmax_float32,
    ),
)
