"""A graph that holds every linear twice, in float and in INT8, and runs one of them in INT8."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ...graph.model import Graph
from ...passes.constants import initializer, initializer_of, insert_before
from ...passes.pipeline import PassPipeline
from ...passes.qdq.policy import QuantPolicy, constant_operand
from ..table import CalibrationTable

SWITCH = "int8_linear"
"""Input of the graph: int64 scalar, number of the linear that is INT8; negative for none."""


def with_switch(graph: Graph, table: CalibrationTable, policy: QuantPolicy | None = None) -> Graph:
    """Let an input choose which linear is INT8, so that one session serves to try them all.

        y = MatMul(x, W)   ->   y = If(int8_linear == i, INT8 form of MatMul(x, W), MatMul(x, W))

    The INT8 form is what the table makes of the linear alone, its smoothing included. Float weights
    are shared with `graph`; the codes of all linears come on top, a quarter of their size.

    Args:
        graph: the float graph that was calibrated.
        table: its ranges.
        policy: the one calibrated with; its plan numbers the linears from 0.
    """
    policy = policy or QuantPolicy()
    model = graph.model.clone()
    switch = ir.Value(name=SWITCH, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(()))
    model.graph.inputs.append(switch)
    # Names that the policy keeps in float are not in a graph of one linear.
    passes = PassPipeline(table.passes(replace(policy, keep_float=())))
    nodes, originals = _by_output(model.graph), _by_output(graph.model.graph)
    for number, linear in enumerate(policy.plan(graph.model).linears):
        form = passes.run(_alone(graph.model, originals[linear.output])).model.clone()
        _Choice(model.graph, nodes[linear.output], number).offer(form.graph, switch)
    return Graph(model, graph.history)


def _by_output(graph: ir.Graph) -> dict[str | None, ir.Node]:
    return {node.outputs[0].name: node for node in graph}


def _alone(model: ir.Model, node: ir.Node) -> Graph:
    """A graph of this linear and nothing else."""
    part = ir.convenience.extract(model.graph, _read(node), node.outputs)
    for value in (*part.inputs, *part.outputs):
        usual = 2 if node.op_type == "Gemm" else 3
        rank = usual if value.shape is None else len(value.shape)
        # The plan has judged the rows in the whole graph; here they must look like tokens.
        value.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(rank)])
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    return Graph(ir.Model(part, ir_version=model.ir_version))


def _read(node: ir.Node) -> tuple[ir.Value, ...]:
    """What a linear reads that is no constant."""
    read = (value for value in node.inputs if value is not None)
    return tuple(dict.fromkeys(value for value in read if constant_operand(value) is None))


class _Choice:
    """Puts one linear and its INT8 form into the branches of an If."""

    def __init__(self, graph: ir.Graph, node: ir.Node, number: int) -> None:
        self._graph = graph
        self._node = node
        self._number = number
        self._name = f"{SWITCH}/{node.outputs[0].name}"

    def offer(self, form: ir.Graph, switch: ir.Value) -> None:
        output = self._node.outputs[0]
        number = initializer(self._graph, f"{self._name}/number", np.array(self._number, np.int64))
        is_chosen = ir.node("Equal", [switch, number], name=f"{self._name}/equal")
        is_chosen.outputs[0].name = f"{self._name}/is_chosen"
        chosen = ir.Value(name=output.name, type=output.type, shape=output.shape)
        int8 = self._branch(form)
        output.name = f"{self._name}/float"
        output.replace_all_uses_with(chosen, replace_graph_outputs=True)
        choice = ir.node("If", is_chosen.outputs, outputs=[chosen], name=self._name)
        insert_before(self._node, [is_chosen, choice])
        self._graph.remove(self._node)
        floats = ir.Graph((), (output,), nodes=[self._node], name=f"{self._name}/float")
        choice.attributes["then_branch"] = ir.AttrGraph("then_branch", int8)
        choice.attributes["else_branch"] = ir.AttrGraph("else_branch", floats)

    def _branch(self, form: ir.Graph) -> ir.Graph:
        """The INT8 form as a subgraph; its constants move into the graph around it."""
        outer = self._constants(form)
        read = {value.name: value for value in _read(self._node)}
        outer.update((value, read[value.name]) for value in form.inputs)
        nodes, outputs = tuple(form), tuple(form.outputs)
        form.outputs.clear()
        form.remove(nodes)
        for node in nodes:
            node.name = f"{self._name}/{node.name}"
            for at, value in enumerate(node.inputs):
                node.replace_input_with(at, outer.get(value, value))
            for output in node.outputs:
                output.name = f"{self._name}/{output.name}"
                output.shape = None  # made up in `_alone`
        return ir.Graph((), outputs, nodes=nodes, name=f"{self._name}/int8")

    def _constants(self, form: ir.Graph) -> dict[ir.Value | None, ir.Value]:
        outer: dict[ir.Value | None, ir.Value] = {}
        for name, value in form.initializers.items():
            tensor = value.const_value
            assert tensor is not None
            known = self._graph.initializers.get(name)
            if known is None or known.const_value is not tensor:
                known = initializer_of(self._graph, f"{self._name}/{name}", tensor)
            outer[value] = known
        return outer
