"""Give the body of a float32 graph another floating-point dtype.

Inputs and outputs of the graph keep their dtype. Reductions that lose digits in 16 bits, and what
follows them without another matrix product (mean pooling and L2 normalisation), stay float32.
Softmax and LayerNormalization do not: both accumulate in float32 inside every engine, and keeping
a Softmax in float32 costs TensorRT its fused attention (0 of 6 blocks of MiniLM, four times the
activation memory). Cosines and sines stay float32 too, with the angles they are of: float16 counts
in steps of 1 beyond position 1024, and of 0.25 beyond 256.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
(strongly typed networks: precision is a property of the graph)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from ...errors import PassError
from ...graph.tensors import Array
from ..base import Pass, PassResult, result
from ..constants import array_of, initializer_of, insert_before
from ..masks.fill import mask_fill

_REDUCTIONS = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
     "ReduceProd", "LpNormalization", "CumSum", "Clip", "Range"}
)  # fmt: skip
_ANGLES = frozenset({"Cos", "Sin"})
_HEAVY = frozenset({"MatMul", "Gemm", "Attention", "Conv", "LayerNormalization"})
_DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype"})
_MASK_FILL = 1e30
"""Scalars from here on are mask fills and saturate; weights that large are refused."""
_LAZY_BYTES = 1 << 16


@dataclass(frozen=True)
class ConvertPrecision(Pass):
    """Convert float32 nodes to a 16-bit dtype, with casts where the two meet.

    Attributes:
        dtype: ``float16`` or ``bfloat16``.
    """

    name = "convert-precision"
    min_opset = 17
    required: ClassVar[bool] = True
    dtype: Literal["float16", "bfloat16"] = "float16"

    @property
    def tolerance(self) -> float:
        """Relative error; float16 has 10 explicit bits, bfloat16 has 7."""
        return 2e-2 if self.dtype == "float16" else 6e-2

    def call(self, model: ir.Model) -> PassResult:
        """Convert the main graph."""
        low = ir.DataType.FLOAT16 if self.dtype == "float16" else ir.DataType.BFLOAT16
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        casts = {node for node in model.graph if _is_boundary(node, low)}
        kept = _kept_nodes(model.graph) - casts
        converter = _Converter(model.graph, low)
        nodes = [node for node in model.graph if node not in kept | casts and _touches_float(node)]
        for node in nodes:
            converter.lower(node)
        for node in tuple(model.graph):
            if node in kept:
                converter.raise_inputs(node)
        converter.restore_outputs()
        return result(model, len(nodes))


def _touches_float(node: ir.Node) -> bool:
    if any(value.dtype == ir.DataType.FLOAT for value in node.outputs):
        return True
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs)


def _is_boundary(node: ir.Node, low: ir.DataType) -> bool:
    """Whether the node already casts between float32 and the low dtype."""
    values = (*node.inputs, *node.outputs)
    return node.op_type == "Cast" and any(v is not None and v.dtype == low for v in values)


def _kept_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Reductions and angles, what only feeds them, and what follows them up to the outputs."""
    order = tuple(graph)
    reaches_heavy: set[ir.Node] = set()
    for node in reversed(order):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if any(reader in reaches_heavy or reader.op_type in _HEAVY for reader in readers):
            reaches_heavy.add(node)
    kept: set[ir.Node] = set()
    for node in order:
        after = any(value is not None and value.producer() in kept for value in node.inputs)
        if node.op_type in _REDUCTIONS or (after and node not in reaches_heavy | _heavy(node)):
            kept.add(node)
    for node in reversed(order):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if readers and all(reader in kept for reader in readers) and not _heavy(node):
            kept.add(node)
    return {node for node in kept | _angles(order) if _touches_float(node)}


def _angles(order: tuple[ir.Node, ...]) -> set[ir.Node]:
    """Cosines, sines and what only feeds them, products of positions and frequencies included."""
    found: set[ir.Node] = set()
    for node in reversed(order):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if node.op_type in _ANGLES or (readers and all(reader in found for reader in readers)):
            found.add(node)
    return found


def _heavy(node: ir.Node) -> set[ir.Node]:
    return {node} if node.op_type in _HEAVY else set()


class _Converter:
    """Keeps one cast a value and one converted copy an initializer."""

    def __init__(self, graph: ir.Graph, low: ir.DataType) -> None:
        self.graph = graph
        self.low = low
        self._lowered: dict[ir.Value, ir.Value] = {}
        self._raised: dict[ir.Value, ir.Value] = {}

    def lower(self, node: ir.Node) -> None:
        """Make a node compute in the low dtype."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT:
                node.replace_input_with(index, self._as_low(value, node))
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            self._check_scale(node)
        self._lower_attributes(node)
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                # Not `output.dtype = ...`: clones share the type object with the original.
                output.type = ir.TensorType(self.low)

    def _lower_attributes(self, node: ir.Node) -> None:
        for name in _DTYPE_ATTRIBUTES & node.attributes.keys():
            if node.attributes[name].as_int() != ir.DataType.FLOAT:
                continue
            if name == "output_dtype":  # the scale says it; ONNX Runtime 1.31 mistypes the output
                del node.attributes[name]
            else:
                node.attributes[name] = ir.AttrInt64(name, int(self.low))
        if node.op_type == "ConstantOfShape":
            given = node.attributes.get("value")
            fill = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(self._cast(fill)))

    def raise_inputs(self, node: ir.Node) -> None:
        """Feed a kept node float32."""
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != self.low:
                continue
            if value not in self._raised:
                self._raised[value] = self._insert_cast(value, ir.DataType.FLOAT, node)
            node.replace_input_with(index, self._raised[value])

    def restore_outputs(self) -> None:
        """Give float outputs of the graph their dtype back, under their own names."""
        for index, value in enumerate(self.graph.outputs):
            producer = value.producer()
            if value.dtype != self.low or producer is None:
                continue
            tape = ir.tape.Tape()
            restored = tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})
            restored.shape, restored.type = value.shape, ir.TensorType(ir.DataType.FLOAT)
            restored.name, value.name = value.name, f"{value.name}.{self.low.short_name()}"
            self.graph.append(tape.nodes[0])
            self.graph.outputs[index] = restored

    def _as_low(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        if value not in self._lowered:
            tensor = value.const_value
            self._lowered[value] = (
                self._insert_cast(value, self.low, reader)
                if tensor is None
                else self._converted(value, tensor)
            )
        return self._lowered[value]

    def _insert_cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        tape = ir.tape.Tape()
        cast = tape.op("Cast", [value], {"to": int(dtype)})
        cast.shape, cast.type = value.shape, ir.TensorType(dtype)
        insert_before(reader, tape.nodes)
        return cast

    def _converted(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        name = f"{value.name}.{self.low.short_name()}"
        self._check_range(tensor, value.name or "?")
        if tensor.nbytes < _LAZY_BYTES:
            return initializer_of(self.graph, name, ir.tensor(self._cast(tensor.numpy())))
        lazy = ir.LazyTensor(
            lambda: ir.tensor(self._cast(tensor.numpy())),
            dtype=self.low,
            shape=ir.Shape(tensor.shape.numpy()),
        )
        return initializer_of(self.graph, name, lazy)

    def _check_scale(self, node: ir.Node) -> None:
        scale = array_of(node.inputs[1])
        if scale is not None and not np.all(scale.astype(np.float32) > 0):
            raise PassError(
                f"{node.op_type} {node.name!r}: its scale underflows to 0 in "
                f"{self.low.short_name()}; calibrate with other text or build another precision"
            )

    def _check_range(self, tensor: ir.TensorProtocol, name: str) -> None:
        array = tensor.numpy()
        largest = float(np.abs(array).max(initial=0.0))
        highest = float(self.low.max)
        if largest > highest and not _is_mask_fill(array):
            raise PassError(
                f"weight {name!r} holds {largest:.6g}, beyond the largest {self.low.short_name()} "
                f"{highest:.6g}; build with --precision bf16 or fp32"
            )

    def _cast(self, array: Array) -> Array:
        lowest = mask_fill(self.low) if _is_mask_fill(array) else float(self.low.min)
        return np.clip(array.astype(np.float32), lowest, -lowest).astype(self.low.numpy())


def _is_mask_fill(array: Array) -> bool:
    return array.size == 1 and bool(np.abs(array).max() >= _MASK_FILL)
