"""Check a Q/DQ graph against what TensorRT builds in 8 bits and what keeps the accuracy.

TensorRT refuses some placements and, worse, runs others silently in float or with other numbers.
Every rule below was measured on TensorRT-RTX 1.7.1, or costs accuracy on MiniLM. Works on graphs
from any tool; not meant for graphs lowered to uint8 for ONNX Runtime's CPU kernels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal

_CODES = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN)
_GEMMS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_SHAPE_ONLY = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast")
"""Operators that leave the values as they are, in another order or float type."""


def lint_qdq(model: ir.Model, *, weight_only: bool = False) -> tuple[Refusal, ...]:
    """What is wrong with the Q/DQ nodes of the main graph.

    Args:
        model: any model.
        weight_only: whether products of a float activation and a quantised weight are meant: they
            are computed in float, with weights of a byte an element.

    Returns:
        One entry a violation, in graph order: the rule, the node, and what would happen.
    """
    found: list[Refusal] = []
    for node in model.graph:
        if node.domain:
            continue
        faults = _check(node, weight_only=weight_only)
        found += [Refusal(rule, _name(node), reason) for rule, reason in faults]
    return tuple(found)


def _check(node: ir.Node, *, weight_only: bool) -> Iterator[tuple[str, str]]:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        yield from _check_codes(node)
        yield from _check_scale(node)
        yield from _check_readers(node)
    elif node.op_type in ("MatMul", "Gemm"):
        yield from _check_operands(node, weight_only=weight_only)


def _check_codes(node: ir.Node) -> Iterator[tuple[str, str]]:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "QuantizeLinear" and zero_point is None:
        yield "zero-point-written", "an absent zero point means uint8 in ONNX"
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    dtype = None if codes is None else codes.dtype
    if zero_point is not None:
        dtype = zero_point.dtype
        tensor = ir.convenience.get_const_tensor(zero_point)
        if tensor is None:
            yield "symmetric-int8", "the zero point is not a constant"
        elif tensor.numpy().any():
            yield "symmetric-int8", "a zero point other than 0 is an error in TensorRT"
    if dtype == ir.DataType.UINT8:
        yield "symmetric-int8", "TensorRT reads uint8 as int8: wrong numbers without an error"
    elif dtype is not None and dtype not in _CODES:
        yield "symmetric-int8", f"TensorRT has no {dtype.name} here: keep biases in float"


def _check_scale(node: ir.Node) -> Iterator[tuple[str, str]]:
    if node.attributes.get_int("block_size", 0):
        yield "no-blocks", "TensorRT cannot build block-wise int8"
    scale = node.inputs[1]
    tensor = None if scale is None else ir.convenience.get_const_tensor(scale)
    if tensor is None:
        yield "constant-scale", "a scale computed at run time silently runs in float"
        return
    values = tensor.numpy().astype(np.float32)
    if not (np.isfinite(values).all() and (values > 0).all()):
        yield (
            "positive-scale",
            f"expected positive finite scales, got {values.min()} to {values.max()} in "
            f"{tensor.dtype.name}",
        )
    if values.size > 1 and not _is_weight(node):
        yield "per-tensor-activation", "an activation scale per channel silently runs in float"


def _check_readers(node: ir.Node) -> Iterator[tuple[str, str]]:
    output = node.outputs[0]
    if output.is_graph_output():
        yield "float-outputs", f"the graph output {output.name!r} is quantised"
    if node.op_type == "QuantizeLinear" or _is_embedding(node):
        return
    for reader in _readers(output):
        if reader.op_type not in _GEMMS:
            yield (
                "gemm-inputs-only",
                f"{reader.op_type} {_name(reader)} reads the quantised tensor: it costs accuracy "
                "and saves no kernel",
            )


def _check_operands(node: ir.Node, *, weight_only: bool) -> Iterator[tuple[str, str]]:
    left, right = (_dequantizer(value) for value in node.inputs[:2])
    if left is None and right is None:
        return
    if weight_only and left is None and right is not None and _is_weight(right[0]):
        yield from _check_weight_axis(node, *right)
        return
    if left is None or right is None:
        side = "left" if right is None else "right"
        yield "both-operands", f"only the {side} operand is quantised: silently runs in float"
        return
    scales = [maker.inputs[1] for maker, _ in (left, right)]
    dtypes = [scale.dtype.name for scale in scales if scale is not None and scale.dtype is not None]
    if len(set(dtypes)) > 1:
        yield "one-float-type", f"scales of {' and '.join(dtypes)}: TensorRT fails to build"
    yield from _check_weight_axis(node, *right)


def _check_weight_axis(
    node: ir.Node, maker: ir.Node, transposed: bool
) -> Iterator[tuple[str, str]]:
    scale = maker.inputs[1]
    tensor = None if scale is None else ir.convenience.get_const_tensor(scale)
    if tensor is None or tensor.size == 1 or not _is_weight(maker):
        return
    if maker.attributes.get_int("block_size", 0):
        return
    axis = maker.attributes.get_int("axis", 1) % 2
    swapped = bool(node.attributes.get_int("transB", 0)) != transposed
    if axis != (0 if swapped else 1):
        yield "output-channel-scales", f"scales run along K (axis {axis}): silently runs in float"


def _is_weight(node: ir.Node) -> bool:
    source = node.inputs[0]
    producer = None if source is None else source.producer()
    if producer is not None and producer.op_type == "QuantizeLinear":
        source = producer.inputs[0]
    return source is not None and ir.convenience.get_const_tensor(source) is not None


def _is_embedding(node: ir.Node) -> bool:
    """True for an int8 table that only Gather reads: TensorRT gathers first, then dequantises."""
    readers = list(_readers(node.outputs[0]))
    return _is_weight(node) and bool(readers) and all(node.op_type == "Gather" for node in readers)


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Consumers, looking through operators that only move values."""
    for usage in value.uses():
        if usage.node.op_type in _SHAPE_ONLY and usage.node.outputs[0].uses():
            yield from _readers(usage.node.outputs[0])
        else:
            yield usage.node


def _dequantizer(value: ir.Value | None) -> tuple[ir.Node, bool] | None:
    """The DequantizeLinear behind an operand, and whether a Transpose turns its result."""
    turned = False
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _SHAPE_ONLY:
        turned ^= node.op_type == "Transpose"
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return (node, turned) if node is not None and node.op_type == "DequantizeLinear" else None


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)
