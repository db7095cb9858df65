"""Multiply in three dimensions what exporters flatten to two.

    Reshape(Gemm(Reshape(x, [-1, k]), w, c), [b, s, n])  ->  Add(MatMul(x, w), c)

with x of shape [b, s, k], or [b, s, heads, k / heads]. GPT-2's Conv1D is exported like this, and
onnxsim turns every linear layer into it; the flattened form hides from all other rules that batch
and sequence are two axes.

Source: https://onnx.ai/onnx/operators/onnx__Gemm.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import (
    array_of,
    initializer,
    initializer_of,
    insert_before,
    int_attribute,
    producer,
    remove_dead,
    replace_value,
)
from ..shapes import algebra
from ..shapes.analysis import analyse
from ..shapes.facts import Facts, Shape
from .transposed import transposed


@dataclass(frozen=True)
class UnflattenGemm(Pass):
    """Replace Gemm between two Reshapes by MatMul and Add.

    A transposed weight is turned without a copy of a large one; a factor other than 1 on the
    product is refused, because it would need the weight scaled.
    """

    name = "unflatten-gemm"
    min_opset = 13

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        facts, rewrites = analyse(model), 0
        refusals: list[Refusal] = []
        for node in tuple(model.graph):
            data = _flattened(node, facts)
            if data is None:
                continue
            reason = _obstacle(node, data, facts)
            if reason is None:
                _unflatten(model.graph, node, data, facts)
                rewrites += 1
            else:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _flattened(node: ir.Node, facts: Facts) -> ir.Value | None:
    """The tensor of three or more dimensions that a Gemm reads flattened to rows."""
    if node.op_type != "Gemm" or node.domain:
        return None
    reshape = producer(node.inputs[0], "Reshape")
    data = None if reshape is None else reshape.inputs[0]
    if data is None or node.inputs[0] is None:
        return None
    source, rows = facts[data].shape, facts[node.inputs[0]].shape
    known = source is not None and rows is not None and len(rows) == 2
    return data if known and len(source or ()) > 2 else None


def _obstacle(node: ir.Node, data: ir.Value, facts: Facts) -> str | None:
    """Why a Gemm over rows cannot be a MatMul."""
    if int_attribute(node, "transA", 0):
        return "it reads its rows transposed"
    if _factor(node, "alpha") != 1:
        return f"its product is scaled by {_factor(node, 'alpha'):g}"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        shape = facts[bias].shape
        if shape is None or len(shape) > 2 or (len(shape) == 2 and shape[0] != 1):
            return f"its bias has shape {_written(shape)}, expected one a column"
        if _factor(node, "beta") != 1 and array_of(bias) is None:
            return f"its bias is computed and scaled by {_factor(node, 'beta'):g}"
    if node.outputs[0].is_graph_output():
        return "its rows are a graph output"
    return _unlike_source(node, data, facts)


def _unlike_source(node: ir.Node, data: ir.Value, facts: Facts) -> str | None:
    """Why what is made of the rows does not have the leading sizes of what they came from."""
    source, made = facts[data].shape or (), _made_shape(node, facts)
    if made is None:
        return "its rows are read as they are, or in several shapes"
    lead = made[:-1]
    columns = (facts[node.inputs[0]].shape or (None, None))[1]
    rest = algebra.product_of(source[len(lead) :])
    known = None not in lead and columns is not None
    if known and source[: len(lead)] == lead and rest == columns:
        return None
    return f"its rows come from {_written(source)} and go to {_written(made)}"


def _made_shape(node: ir.Node, facts: Facts) -> Shape | None:
    """The one shape that all readers reshape the rows to."""
    uses = node.outputs[0].uses()
    if any(use.node.op_type != "Reshape" or use.node.domain or use.idx for use in uses):
        return None
    shapes = {facts[use.node.outputs[0]].shape for use in uses}
    return shapes.pop() if len(shapes) == 1 else None


def _written(shape: Shape | None) -> str:
    return "unknown" if shape is None else f"[{', '.join(map(str, shape))}]"


def _factor(node: ir.Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 1.0 if attribute is None else attribute.as_float()


def _unflatten(graph: ir.Graph, node: ir.Node, data: ir.Value, facts: Facts) -> None:
    tape = ir.tape.Tape()
    weight, made = node.inputs[1], _made_shape(node, facts)
    assert weight is not None
    assert made is not None
    if len(facts[data].shape or ()) > len(made):
        columns = (facts[node.inputs[0]].shape or (0, 0))[1]
        target = np.array([*(0 for _ in made[:-1]), columns], np.int64)
        rows = initializer(graph, f"{node.outputs[0].name}.rows", target)
        data = tape.op("Reshape", [data, rows])
        data.shape, data.type = ir.Shape([*made[:-1], columns]), node.outputs[0].type
    if int_attribute(node, "transB", 0):
        weight = _turned(graph, weight, tape)
    new = tape.op("MatMul", [data, weight])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        new = tape.op("Add", [new, _scaled(graph, bias, _factor(node, "beta"))])
    insert_before(node, tape.nodes)
    readers = [use.node for use in node.outputs[0].uses()]
    for reader in readers:
        replace_value(reader.outputs[0], new)
    facts[new] = facts[readers[0].outputs[0]]
    remove_dead(*readers)


def _turned(graph: ir.Graph, weight: ir.Value, tape: ir.tape.Tape) -> ir.Value:
    """A matrix with rows for columns: a constant stays one, unless others read it too."""
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None or len(weight.uses()) > 1:
        return tape.op("Transpose", [weight], {"perm": [1, 0]})
    late = transposed(weight, (1, 0)) or ir.tensor(np.ascontiguousarray(tensor.numpy().T))
    return initializer_of(graph, f"{weight.name}.transposed", late)


def _scaled(graph: ir.Graph, bias: ir.Value, factor: float) -> ir.Value:
    array = array_of(bias)
    if factor == 1 or array is None:
        return bias
    scaled = (array * np.asarray(factor, array.dtype)).astype(array.dtype)
    return initializer(graph, f"{bias.name}.scaled", scaled)
