"""Give ONNX Runtime's CPU kernels the uint8 activations they are fast with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...errors import PassError
from ...graph.history import Refusal
from ..base import EXACT, Pass, PassResult, result
from ..constants import initializer

_OFFSET = 128


@dataclass(frozen=True)
class LowerActivationsUint8(Pass):
    """Shift every activation Q/DQ from int8 with zero point 0 to uint8 with zero point 128.

        (q - 0) * s  ->  ((q + 128) - 128) * s

    The value is preserved exactly, saturation included; weights stay int8. ONNX Runtime on x86
    turns 36 of MiniLM's 36 linears into MatMulIntegerToFloat instead of 18. It is a lowering of
    ``ort-cpu`` alone: TensorRT refuses a zero point that is not 0.

    x86 processors without VNNI add pairs of uint8 x int8 products in a saturating int16, and
    ``2 * 255 * 127`` does not fit, so their answers would be silently wrong. There the caller
    either leaves this pass out (int8 x int8, exact and slower), asks ONNX Runtime for its exact
    kernels (session option ``session.x64quantprecision`` = ``1``), or sets `weight_bits` to 7.

    Attributes:
        weight_bits: 8 leaves the weights alone; 7 halves their codes and doubles their scales, so
            that no pair of products can overflow (``2 * 255 * 64 < 2**15``), at one bit less
            precision in the weights.

    Raises:
        PassError: when `weight_bits` is neither 7 nor 8.
    """

    name: ClassVar[str] = "lower-activations-uint8"
    min_opset: ClassVar[int] = 13
    weight_bits: Literal[7, 8] = 8

    @property
    def tolerance(self) -> float | None:
        """Exact with 8 bits; 7 bits are meant to change numbers."""
        return EXACT if self.weight_bits == 8 else None

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        if self.weight_bits not in (7, 8):
            raise PassError(
                f"pass {self.name}: expected weight_bits 7 or 8, got {self.weight_bits}"
            )
        rewrites = 0
        refusals: list[Refusal] = []
        for node in list(model.graph):
            if node.domain or node.op_type != "QuantizeLinear" or not _is_int8(node):
                continue
            reason = _refuse(node)
            if reason is not None:
                refusals.append(Refusal(self.name, str(node.name), reason))
                continue
            _lower(model.graph, node)
            rewrites += 1
        if self.weight_bits == 7:
            rewrites += _narrow_weights(model.graph)
        return result(model, rewrites, tuple(refusals))


def _is_int8(node: ir.Node) -> bool:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    return zero_point is not None and zero_point.dtype == ir.DataType.INT8


def _refuse(node: ir.Node) -> str | None:
    zero_point = node.inputs[2]
    assert zero_point is not None
    tensor = ir.convenience.get_const_tensor(zero_point)
    if tensor is None or tensor.size != 1 or tensor.numpy().any():
        return "the zero point is not a single constant 0"
    if "output_dtype" in node.attributes:
        return "output_dtype fixes the quantised type"
    output = node.outputs[0]
    readers = [usage.node for usage in output.uses()]
    if output.is_graph_output() or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return "the quantised tensor is read by something else than a DequantizeLinear"
    if any(_moves_zero(reader) for reader in readers):
        return "a DequantizeLinear that reads it has another zero point"
    return None


def _moves_zero(reader: ir.Node) -> bool:
    zero_point = reader.inputs[2] if len(reader.inputs) > 2 else None
    if zero_point is None:
        return False
    tensor = ir.convenience.get_const_tensor(zero_point)
    return tensor is None or bool(tensor.numpy().any())


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    old = node.inputs[2]
    assert old is not None
    assert old.const_value is not None
    array = np.full(old.const_value.shape.numpy(), _OFFSET, np.uint8)
    value = initializer(graph, f"{node.outputs[0].name}/zero_point_uint8", array)
    node.replace_input_with(2, value)
    # A new type object: setting dtype would change the one that clones of the value share.
    node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    for usage in node.outputs[0].uses():
        usage.node.resize_inputs(3)
        usage.node.replace_input_with(2, value)
    if not old.uses() and old.is_initializer():
        del graph.initializers[str(old.name)]


def _narrow_weights(graph: ir.Graph) -> int:
    """Take the weights that DequantizeLinear reads from 8 to 7 bits; returns how many."""
    done: set[ir.Value] = set()
    for node in graph:
        if node.domain or node.op_type != "DequantizeLinear":
            continue
        codes, scale = node.inputs[0], node.inputs[1]
        if codes is None or scale is None or codes in done:
            continue
        if not codes.is_initializer() or codes.dtype != ir.DataType.INT8 or _is_narrow(codes):
            continue
        assert codes.const_value is not None
        assert scale.const_value is not None
        half = np.rint(codes.const_value.numpy() * np.float32(0.5)).astype(np.int8)
        wide = scale.const_value.numpy() * scale.const_value.dtype.numpy().type(2)
        codes.const_value = ir.tensor(half, name=codes.name)
        scale.const_value = ir.tensor(wide, name=scale.name)
        done.add(codes)
    return len(done)


def _is_narrow(codes: ir.Value) -> bool:
    assert codes.const_value is not None
    array = codes.const_value.numpy()
    return bool(array.min() >= -64 and array.max() <= 64)
