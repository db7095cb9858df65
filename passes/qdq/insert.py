"""Write 8-bit formats into a graph: Q/DQ around GEMM inputs, DQ behind weights and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import PassError
from ..base import Pass, PassResult, result
from .linears import add_to_bias, drop_unread, insert_behind, weight_of
from .params import QuantParams, Scheme, dequantize, quantize, weight_params
from .policy import Linear, QuantPlan, QuantPolicy, constant_operand
from .tables import Table
from .writer import QdqWriter


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Quantise both operands of every planned GEMM, and embedding tables where that is planned.

        MatMul(x, W)    ->  MatMul(DQ(Q(x)), DQ(int8 W))
        MatMul(x, W)    ->  MatMul(x, DQ(int8 W))                 when the policy is weight-only
        Gather(T, ids)  ->  Gather(DQ(int8 T), ids) * Gather(scales, ids)

    A tensor gets one Q/DQ pair, next to its producer, however many GEMMs read it; other readers
    (residual add, normalisation, graph outputs) keep the float tensor. Weights are stored as codes
    with one scale an output channel; a float weight that somebody else still reads stays beside
    it. Scales have the dtype of the weight. Zero points are written out, because ONNX reads an
    absent one as uint8.

    A table has a scale a row (42.8 dB on MiniLM; 27.4 with one for all). TensorRT gathers codes of
    one byte only when DQ has a single scale, so DQ has 1 and the row's scale is multiplied behind.

    Attributes:
        activations: how to quantise each activation, by tensor name; more than needed is fine.
        centres: ``c [channels]``, what activations hold on average, by tensor name. Rounded weights
            must not move what that gives, so ``-c @ (DQ(W) - W)`` goes into the bias: without it
            MiniLM, whose smoothed channels are shifted far from zero, has noise of 3 dB instead of
            25, and up to 0.8 dB less when zero is not moved instead of the mean.
        policy: which GEMMs and tables to take, and in which format.

    Raises:
        PassError: when a planned GEMM reads a tensor that `activations` does not have, or has in
            another format.
        GraphError: when a weight holds NaN or infinity.
    """

    name: ClassVar[str] = "insert-qdq"
    min_opset: ClassVar[int] = 19  # float16 scales
    required: ClassVar[bool] = True
    activations: Mapping[str, QuantParams] = field(repr=False)
    centres: Mapping[str, NDArray[np.float32]] = field(repr=False, default_factory=dict)
    policy: QuantPolicy = field(default_factory=QuantPolicy)

    @property
    def tolerance(self) -> None:
        """Quantising is meant to change numbers; calibration measures by how much."""
        return

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the model in place."""
        plan = self.policy.plan(model)
        inserter = _Inserter(model.graph, self.policy)
        if not self.policy.weight_only:
            self._check_ranges(plan)
        for linear in plan.linears:
            inserter.weigh(linear, self.centres.get(linear.activation))
            if not self.policy.weight_only:
                inserter.activate(linear, self.activations[linear.activation])
        for table in plan.tables:
            inserter.embed(table)
        inserter.drop_unread()
        rewrites = len(plan.linears) + len(plan.tables)
        return result(model, rewrites, plan.refusals + plan.float_tables)

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
            if params.scheme != self.policy.scheme:
                raise PassError(
                    f"{linear.node}: the range of its input {linear.activation!r} is for "
                    f"{params.scheme.name}, the policy asks for {self.policy.scheme.name}"
                )


class _Inserter:
    """Rewires the planned edges of one graph."""

    def __init__(self, graph: ir.Graph, policy: QuantPolicy) -> None:
        self._graph = graph
        self._policy = policy
        self._writer = QdqWriter(graph, policy.scheme)
        self._nodes = {node.outputs[0].name: node for node in graph}
        self._replaced: dict[ir.Value, None] = {}

    def weigh(self, linear: Linear, centre: NDArray[np.float32] | None = None) -> None:
        """Quantise the weight; `centre` is of the activation."""
        node = self._nodes[linear.output]
        operand = node.inputs[1]
        assert operand is not None
        found = constant_operand(operand)
        assert found is not None
        if centre is not None and centre.any():
            add_to_bias(self._graph, node, -_centre_error(node, centre, self._policy.scheme))
        weight = self._writer.matrix(found[0], node, axis=linear.axis, transposed=linear.transposed)
        node.replace_input_with(1, weight)
        self._replaced |= {operand: None, found[0]: None}

    def activate(self, linear: Linear, params: QuantParams) -> None:
        """Quantise the activation; the scale has the dtype of the weight's."""
        node = self._nodes[linear.output]
        x, weight = node.inputs[0], node.inputs[1]
        assert x is not None
        assert weight is not None
        assert weight.dtype is not None
        node.replace_input_with(0, self._writer.activation(x, params, weight.dtype))

    def embed(self, table: Table) -> None:
        """Gather codes and their scales in place of float rows."""
        gather = self._nodes[table.output]
        weight, ids = gather.inputs[0], gather.inputs[1]
        assert weight is not None
        codes, scales = self._writer.table(weight, gather)
        gather.replace_input_with(0, codes)
        rows = gather.outputs[0]
        assert scales.dtype is not None
        picked = ir.Value(name=f"{rows.name}/row_scale", type=ir.TensorType(scales.dtype))
        node = ir.node("Gather", [scales, ids], {"axis": 0}, outputs=[picked], name=picked.name)
        self._graph.insert_before(gather, node)
        insert_behind(self._graph, rows, "Mul", picked)
        self._replaced[weight] = None

    def drop_unread(self) -> None:
        """Remove the float weights (and their Transposes) that lost their last reader."""
        drop_unread(self._graph, *self._replaced)


def _centre_error(
    node: ir.Node, centre: NDArray[np.float32], scheme: Scheme
) -> NDArray[np.float32]:
    """What rounding the weight does to the answer at the centre, ``[N]``."""
    weight = weight_of(node)
    params = weight_params(weight, 1, scheme)
    error = dequantize(quantize(weight, params), params) - weight
    return np.float32(node.attributes.get_float("alpha", 1.0)) * (centre @ error)
