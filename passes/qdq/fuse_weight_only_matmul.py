"""Products with int8 weights as ONNX Runtime's own operator.

    MatMul(x, DQ(int8 w)) + bias  ->  com.microsoft.MatMulNBits(x, w, scales, bias)

ONNX Runtime makes this operator by itself of some products, but not in front of a Relu, and would
restore the others' weights at each run.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..base import Pass, PassResult, result
from ..constants import array_of, initializer, insert_before, producer, remove_dead, replace_value
from .fuse_integer_matmul import constant_bias

_BLOCK = 32
"""Products that share a scale; the operator rounds activations in blocks of that size too: 3.0 % of
MiniLM's answer, 5.8 % in blocks of 128, which are a tenth faster."""

_ROUNDED = 4
"""Accuracy level: activations are rounded to int8. In float (level 1) 16 tokens take five times as
long, because weights are restored at each run."""

_ZERO = 128
"""Code of zero in the operator's uint8."""


@dataclass(frozen=True)
class FuseWeightOnlyMatMul(Pass):
    """Replace each MatMul of a float activation and an int8 weight, with its bias."""

    name: ClassVar[str] = "fuse-weight-only-matmul"
    min_opset: ClassVar[int] = 13

    @property
    def tolerance(self) -> float:
        """Activations are rounded to 8 bits, block by block."""
        return 0.1

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        nodes = [node for node in model.graph if node.op_type == "MatMul" and not node.domain]
        rewrites = sum(_replace(model.graph, node) for node in nodes)
        if rewrites:
            model.opset_imports.setdefault("com.microsoft", 1)
        return result(model, rewrites)


def _replace(graph: ir.Graph, node: ir.Node) -> bool:
    x, restored = node.inputs[0], producer(node.inputs[1], "DequantizeLinear")
    if restored is None or producer(x, "DequantizeLinear") is not None:
        return False
    codes, scale = (array_of(value) for value in restored.inputs[:2])
    if codes is None or scale is None or codes.ndim != 2 or codes.dtype != np.int8:
        return False
    depth, channels = codes.shape
    along = restored.attributes.get_int("axis", 1) in (1, -1)
    if not along or scale.shape != (channels,) or scale.dtype != np.float32:
        return False
    add, bias = constant_bias(node)
    weight = restored.inputs[0]
    assert weight is not None
    packed = _packed(codes)
    inputs = [
        x,
        initializer(graph, f"{weight.name}/blocks", packed),
        initializer(graph, f"{weight.name}/block_scales", np.repeat(scale, packed.shape[1])),
        *((None, None, bias) if bias is not None else ()),
    ]
    attributes = {
        "K": depth,
        "N": channels,
        "bits": 8,
        "block_size": _BLOCK,
        "accuracy_level": _ROUNDED,
    }
    fused = ir.node("MatMulNBits", inputs, attributes, domain="com.microsoft", name=node.name)
    last = node if add is None else add
    insert_before(last, [fused])
    replace_value(last.outputs[0], fused.outputs[0])
    remove_dead(last)
    return True


def _packed(codes: Array) -> Array:
    """uint8 ``[N, blocks, 32]`` of int8 ``[K, N]``, filled up with zeros."""
    depth, channels = codes.shape
    blocks = -(-depth // _BLOCK)
    packed = np.full((channels, blocks * _BLOCK), _ZERO, np.uint8)
    packed[:, :depth] = (codes.T.astype(np.int16) + _ZERO).astype(np.uint8)
    return packed.reshape(channels, blocks, _BLOCK)
