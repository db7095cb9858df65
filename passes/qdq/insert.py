"""Write INT8 into a graph as QuantizeLinear / DequantizeLinear pairs around GEMM inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import CalibrationError, GraphError, PassError
from ..base import Pass, PassResult, result
from .linears import add_to_bias, weight_of
from .params import QuantParams, dequantize, quantize, weight_params
from .policy import Linear, QuantPlan, QuantPolicy, constant_operand


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Quantise both operands of every planned GEMM and nothing else.

        MatMul(x, W)  ->  MatMul(DQ(Q(x)), DQ(int8 W))

    A tensor gets one Q/DQ pair, next to its producer, however many GEMMs read it; other readers
    (residual add, normalisation, graph outputs) keep the float tensor. Weights are stored as int8
    with one scale an output channel; a float weight that somebody else still reads stays beside
    it. Scales have the dtype of the weight. Zero points are written out, because ONNX reads an
    absent one as uint8.

    Attributes:
        activations: how to quantise each activation, by tensor name; more than needed is fine.
        shifts: ``z [channels]`` of activations that hold ``x / s - z``, by tensor name. Rounded
            weights must not move what ``x = 0`` gives, so ``z @ (DQ(W) - W)`` goes into the bias;
            without it MiniLM has noise of 3 dB instead of 24.
        policy: which GEMMs to take.

    Raises:
        PassError: when a planned GEMM reads a tensor that `activations` does not have.
        GraphError: when a weight holds NaN or infinity.
    """

    name: ClassVar[str] = "insert-qdq"
    min_opset: ClassVar[int] = 19  # float16 scales
    required: ClassVar[bool] = True
    activations: Mapping[str, QuantParams] = field(repr=False)
    shifts: Mapping[str, NDArray[np.float32]] = field(repr=False, default_factory=dict)
    policy: QuantPolicy = field(default_factory=QuantPolicy)

    @property
    def tolerance(self) -> None:
        """Quantising is meant to change numbers; calibration measures by how much."""
        return

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        plan = self.policy.plan(model)
        self._check_ranges(plan)
        writer = _Writer(model.graph)
        for linear in plan.linears:
            params, shift = self.activations[linear.activation], self.shifts.get(linear.activation)
            writer.quantize(linear, params, shift)
        writer.drop_unread()
        return result(model, len(plan.linears), plan.refusals)

    def _check_ranges(self, plan: QuantPlan) -> None:
        for linear in plan.linears:
            params = self.activations.get(linear.activation)
            if params is None:
                raise PassError(
                    f"{linear.node}: no range for its input {linear.activation!r} among the "
                    f"{len(self.activations)} calibrated tensors; calibrate this very graph"
                )
            if params.axis is not None:
                raise PassError(
                    f"{linear.node}: its input {linear.activation!r} has a scale per channel "
                    f"(axis {params.axis}); expected one scale, an INT8 GEMM cannot apply more"
                )


class _Writer:
    """Adds Q/DQ nodes to one graph and remembers what it has already quantised."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._nodes = {node.outputs[0].name: node for node in graph}
        self._names = _taken_names(graph)
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int, bool], ir.Value] = {}
        self._replaced: dict[ir.Value, None] = {}

    def quantize(
        self, linear: Linear, params: QuantParams, shift: NDArray[np.float32] | None
    ) -> None:
        node = self._nodes[linear.output]
        activation, operand = node.inputs[0], node.inputs[1]
        assert activation is not None
        assert operand is not None
        found = constant_operand(operand)
        assert found is not None
        if shift is not None and shift.any():
            add_to_bias(self._graph, node, _zero_error(node, shift))
        weight = self._weight(linear, found[0], node)
        assert weight.dtype is not None
        node.replace_input_with(0, self._activation(activation, params, weight.dtype))
        node.replace_input_with(1, weight)
        self._replaced[operand] = None
        self._replaced[found[0]] = None

    def drop_unread(self) -> None:
        """Remove the float weights (and their Transposes) that lost their last reader."""
        for value in self._replaced:
            if value.uses() or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is not None:
                self._graph.remove(producer, safe=True)
            elif value.is_initializer():
                del self._graph.initializers[str(value.name)]

    def _activation(self, x: ir.Value, params: QuantParams, dtype: ir.DataType) -> ir.Value:
        if x in self._activations:
            return self._activations[x]
        scale = self._constant(f"{x.name}/scale", params.scale.astype(dtype.numpy()))
        zero_point = self._constant(f"{x.name}/zero_point", params.zero_point)
        quantized = self._node(
            "QuantizeLinear", [x, scale, zero_point], f"{x.name}/quantized", ir.DataType.INT8
        )
        restored = self._node(
            "DequantizeLinear",
            [quantized.outputs[0], scale, zero_point],
            f"{x.name}/dequantized",
            dtype,
        )
        producer = x.producer()
        if producer is not None:
            self._graph.insert_after(producer, [quantized, restored])
        else:
            self._graph.insert_before(self._graph[0], [quantized, restored])
        self._activations[x] = restored.outputs[0]
        return restored.outputs[0]

    def _weight(self, linear: Linear, weight: ir.Value, node: ir.Node) -> ir.Value:
        key = (weight, linear.axis, linear.transposed)
        if key in self._weights:
            return self._weights[key]
        tensor = ir.convenience.get_const_tensor(weight)
        assert tensor is not None
        codes, scale = _quantize_weight(tensor, linear)
        zeros = np.zeros(scale.shape, np.int8)
        name = linear.weight
        inputs = [
            self._constant(f"{name}/int8", codes),
            self._constant(f"{name}/scale", scale),
            self._constant(f"{name}/zero_point", zeros),
        ]
        restored = self._node(
            "DequantizeLinear", inputs, f"{name}/dequantized", tensor.dtype, axis=linear.axis
        )
        self._graph.insert_before(node, restored)
        self._weights[key] = restored.outputs[0]
        return restored.outputs[0]

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        name = self._fresh(name)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        dtype: ir.DataType,
        axis: int | None = None,
    ) -> ir.Node:
        name = self._fresh(output)
        shape = inputs[0].shape
        value = ir.Value(
            name=name, type=ir.TensorType(dtype), shape=None if shape is None else shape.copy()
        )
        attributes = {} if axis is None else {"axis": axis}
        return ir.node(op_type, inputs, attributes, outputs=[value], name=name)

    def _fresh(self, name: str) -> str:
        fresh, count = name, 1
        while fresh in self._names:
            fresh, count = f"{name}_{count}", count + 1
        self._names.add(fresh)
        return fresh


def _zero_error(node: ir.Node, shift: NDArray[np.float32]) -> NDArray[np.float32]:
    """What rounding the weight does to the answer at the shifted zero, ``[N]``."""
    weight = weight_of(node)
    params = weight_params(weight, 1)
    error = dequantize(quantize(weight, params), params) - weight
    return np.float32(node.attributes.get_float("alpha", 1.0)) * (shift @ error)


def _quantize_weight(
    tensor: ir.TensorProtocol, linear: Linear
) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """int8 codes ``[K, N]`` or ``[N, K]``, and scales ``[N]`` in the dtype of the weight."""
    array = tensor.numpy()
    real = array.T if linear.transposed else array
    try:
        params = weight_params(real.astype(np.float32, copy=False), linear.axis)
    except CalibrationError as error:
        raise GraphError(f"{linear.node}: weight {linear.weight!r}: {error}") from error
    scale = params.scale.astype(array.dtype)
    # The codes must fit the scale that is stored, which float16 and bfloat16 round.
    stored = QuantParams(scale.astype(np.float32), params.zero_point, linear.axis)
    codes = quantize(real.astype(np.float32, copy=False), stored)
    return np.ascontiguousarray(codes), scale


def _taken_names(graph: ir.Graph) -> set[str | None]:
    taken: set[str | None] = set(graph.initializers)
    taken.update(value.name for value in graph.inputs)
    for node in graph.all_nodes():
        taken.add(node.name)
        taken.update(value.name for value in node.outputs)
    return taken
