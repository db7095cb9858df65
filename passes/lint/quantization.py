"""Quantise/dequantise nodes: what is refused, read with other numbers, or runs in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from ..constants import array_of, producer, sole_consumer
from ..qdq.lint import lint_qdq
from .finding import Hit, Rule, Severity, Subject, name_of, operand

_D = ir.DataType
_WEIGHT_ONLY = frozenset({_D.INT4, _D.FLOAT8E4M3FN, _D.FLOAT4E2M1})


def _pairs(subject: Subject) -> Iterator[tuple[ir.Node, ir.DataType | None]]:
    """Q/DQ nodes and the type of their codes; of a Q with its DQ the former alone."""
    for node in subject.of_type("QuantizeLinear", "DequantizeLinear"):
        if _is_second(node):
            continue
        zero_point = operand(node, 2)
        codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
        known = zero_point or codes
        yield node, None if known is None else known.dtype


def _is_second(node: ir.Node) -> bool:
    return producer(node.inputs[0], "QuantizeLinear") is not None


def _bias(subject: Subject) -> Iterator[Hit]:
    for node, dtype in _pairs(subject):
        if dtype == _D.INT32:
            yield (
                name_of(node),
                f"{node.op_type} of int32: the parser refuses it, TensorRT adds biases in float; "
                "keep the bias a float constant",
            )


def _narrow_cast(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Cast"):
        dtype = node.outputs[0].dtype
        if dtype in _WEIGHT_ONLY:
            yield (
                name_of(node),
                f"Cast to {dtype.name}: the engine does not build, such codes come from "
                "QuantizeLinear or constants alone; use QuantizeLinear",
            )


def _uint8(subject: Subject) -> Iterator[Hit]:
    for node, dtype in _pairs(subject):
        if dtype == _D.UINT8 and array_of(node.inputs[0]) is not None:
            got = "of a uint8 constant: the parser refuses it"
        elif dtype == _D.UINT8 and not _is_shifted(node):
            got = (
                "of uint8: the parser takes int8 instead and only warns, so codes of 128 and more "
                "saturate, other numbers without an error"
            )
        elif node.op_type == "QuantizeLinear" and operand(node, 2) is None and not _typed(node):
            got = (
                "without zero point: ONNX says uint8, TensorRT takes int8, so negative values "
                "survive in the engine alone"
            )
        else:
            continue
        yield name_of(node), f"{node.op_type} {got}; quantise to int8 with a written zero point 0"


def _typed(node: ir.Node) -> bool:
    return "output_dtype" in node.attributes


def _is_shifted(node: ir.Node) -> bool:
    array = array_of(operand(node, 2))
    return array is not None and bool(array.any())


def _zero_point(subject: Subject) -> Iterator[Hit]:
    for node, _ in _pairs(subject):
        zero_point = operand(node, 2)
        if zero_point is None:
            continue
        if ir.convenience.get_const_tensor(zero_point) is None:
            got = f"a computed zero point {zero_point.name!r}: the engine does not build"
        elif _is_shifted(node):
            got = "a zero point other than 0: the parser refuses it"
        else:
            continue
        yield name_of(node), f"{node.op_type} with {got}; quantise symmetrically, zero point 0"


def _separate(subject: Subject) -> Iterator[Hit]:
    first: dict[ir.Value, tuple[float, ...]] = {}
    for node in subject.of_type("QuantizeLinear"):
        value, scale = node.inputs[0], array_of(node.inputs[1])
        if value is None or scale is None or not _feeds_product(node):
            continue
        scales = tuple(scale.astype(float).reshape(-1))
        if first.setdefault(value, scales) != scales:
            yield (
                name_of(node),
                f"{value.name!r} is quantised with more than one scale: products that read it are "
                "not merged (3 GEMMs instead of 1 for Q, K and V); share one QuantizeLinear",
            )


def _packed(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("MatMul"):
        if None in [_dequantizer(value) for value in node.inputs[:2]]:
            continue
        total = node.outputs[0]
        bias = sole_consumer(total, "Add")
        total = total if bias is None else bias.outputs[0]
        cuts = [use.node for use in total.uses() if use.node.op_type in ("Split", "Slice")]
        parts = [part for cut in cuts for part in cut.outputs if _feeds_attention(part)]
        if len(parts) > 1:
            yield (
                name_of(node),
                f"an INT8 product of which {len(parts)} parts are read by Attention: TensorRT cuts "
                "the weight instead and runs the product in float; write a product for each part",
            )


def _feeds_attention(part: ir.Value) -> bool:
    readers = [use.node for use in part.uses()]
    rotated = [reader.outputs[0] for reader in readers if reader.op_type == "RotaryEmbedding"]
    readers += [use.node for value in rotated for use in value.uses()]
    return any(reader.op_type == "Attention" for reader in readers)


def _feeds_product(node: ir.Node) -> bool:
    readers = [use.node for use in node.outputs[0].uses()]
    outputs = [reader.outputs[0] for reader in readers if reader.op_type == "DequantizeLinear"]
    return any(use.node.op_type in ("MatMul", "Gemm") for o in outputs for use in o.uses())


def _gathered(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("DequantizeLinear"):
        gather = producer(node.inputs[0], "Gather")
        if gather is not None and array_of(gather.inputs[0]) is not None:
            yield (
                name_of(node),
                "DequantizeLinear behind a Gather of int8 rows: the engine does not build, codes "
                "may stand in front of DequantizeLinear alone; put it in front of the Gather",
            )


def _blocks(subject: Subject) -> Iterator[Hit]:
    for node, dtype in _pairs(subject):
        if dtype == _D.INT8 and "block_size" in node.attributes and _is_paired(node):
            yield (
                name_of(node),
                "int8 weights in blocks times int8 activations: the engine does not build; use a "
                "scale an output channel",
            )


def _is_paired(node: ir.Node) -> bool:
    """Whether the weight is multiplied by something that is quantised too."""
    products = (use.node for use in node.outputs[0].uses() if use.node.op_type == "MatMul")
    return any(producer(product.inputs[0], "DequantizeLinear") for product in products)


def _placement(rule: str) -> Callable[[Subject], Iterator[Hit]]:
    """One rule of `lint_qdq`, which insertion is held to as well."""

    def check(subject: Subject) -> Iterator[Hit]:
        other = {name_of(node) for node in subject.nodes if _has_own_rules(node, rule)}
        for found in lint_qdq(subject.model):
            if found.rule == rule and found.node not in other:
                yield found.node, f"{found.reason}; quantise as docs/lint.md describes"

    return check


def _has_own_rules(node: ir.Node, rule: str) -> bool:
    """Weight-only forms, which are good ones; biases; and a DQ whose Q is reported already."""
    if node.op_type in ("MatMul", "Gemm"):
        left, right = (_dequantizer(value) for value in node.inputs[:2])
        return left is None and right is not None
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    if rule in _ABOUT_SCALES and _is_second(node):
        return True
    if producer(node.inputs[0], "Gather") is not None:
        return True
    return node.inputs[0].dtype in (*_WEIGHT_ONLY, _D.INT32)


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    while (moved := producer(value, "Transpose", "Reshape", "Identity")) is not None:
        value = moved.inputs[0]
    return producer(value, "DequantizeLinear")


_ABOUT_SCALES = ("constant-scale", "positive-scale", "per-tensor-activation")
_PLACEMENT: tuple[tuple[str, Severity, str], ...] = (
    ("constant-scale", "warning", "a scale computed at run time: silently runs in float"),
    ("positive-scale", "error", "a scale that is not positive and finite"),
    ("per-tensor-activation", "warning", "activation scales per channel: silently runs in float"),
    ("float-outputs", "warning", "a quantised graph output"),
    ("gemm-inputs-only", "warning", "a quantised tensor read by other than products"),
    ("both-operands", "warning", "one operand of a product quantised: silently runs in float"),
    ("one-float-type", "error", "scales of different types at one product"),
    ("output-channel-scales", "warning", "weight scales along K: silently runs in float"),
)

RULES = (
    Rule(
        name="quantised-bias",
        severity="error",
        title="DequantizeLinear of an int32 bias",
        check=_bias,
    ),
    Rule(
        name="narrow-cast",
        severity="error",
        title="Cast to int4, fp8 or fp4",
        check=_narrow_cast,
    ),
    Rule(
        name="uint8-codes",
        severity="error",
        title="uint8 codes, written or implied, which are read as int8",
        check=_uint8,
    ),
    Rule(
        name="zero-point",
        severity="error",
        title="a zero point that is not a constant 0",
        check=_zero_point,
    ),
    Rule(
        name="separate-scales",
        severity="warning",
        title="one tensor quantised with several scales",
        check=_separate,
    ),
    Rule(
        name="packed-product",
        severity="warning",
        title="an INT8 product that is cut into what Attention reads: silently runs in float",
        check=_packed,
    ),
    Rule(
        name="gathered-codes",
        severity="error",
        title="DequantizeLinear behind the Gather of an int8 table",
        check=_gathered,
    ),
    Rule(
        name="blocked-int8",
        severity="error",
        title="int8 weights in blocks times quantised activations",
        check=_blocks,
    ),
    *(
        Rule(name=name, severity=severity, title=title, check=_placement(name))
        for name, severity, title in _PLACEMENT
    ),
)
