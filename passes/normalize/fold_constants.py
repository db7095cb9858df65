"""Evaluate what does not depend on any input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..base import Pass, PassResult, result
from ..constants import (
    array_of,
    initializer,
    initializer_of,
    permutation_of,
    remove_dead,
    replace_value,
)
from .growth import predicted_elements
from .transposed import transposed

_NEVER = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike",
     "RandomUniformLike", "Bernoulli", "Multinomial", "If", "Loop", "Scan"}
)  # fmt: skip


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes whose every input is constant by their value.

    Q/DQ nodes stay: folding them would undo a quantisation. A result larger than its inputs is
    kept only up to `growth_bytes`, so that folding an Expand cannot blow up the file. A large
    weight is transposed when it is read, so that folding makes no copy of it.

    Attributes:
        growth_bytes: largest result that may exceed the bytes of its inputs.
    """

    name = "fold-constants"
    growth_bytes: int = 1 << 16

    def call(self, model: ir.Model) -> PassResult:
        """Fold in topological order, so that chains fold in one run."""
        rewrites = 0
        for node in tuple(model.graph):
            if node.graph is None or not _is_constant(node):
                continue
            rewrites += self._fold(model, node)
        return result(model, rewrites)

    def _fold(self, model: ir.Model, node: ir.Node) -> int:
        late = None
        if node.op_type == "Transpose":
            late = transposed(node.inputs[0], permutation_of(node))
        if late is not None:
            output = node.outputs[0]
            replace_value(output, initializer_of(model.graph, f"{output.name}.folded", late))
            remove_dead(node)
            return 1
        held = sum(array.nbytes for array in map(array_of, node.inputs) if array is not None)
        most = max(held, self.growth_bytes)
        try:
            if predicted_elements(node) > most:
                return 0
        except ValueError:
            return 0  # its inputs do not fit: whoever runs the graph will say so
        value = _evaluate(model, node)
        if value is None or value.nbytes > most:
            return 0
        output = node.outputs[0]
        replace_value(output, initializer(model.graph, f"{output.name}.folded", value))
        remove_dead(node)
        return 1


def _is_constant(node: ir.Node) -> bool:
    if node.op_type in _NEVER or node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
        return False
    if node.outputs[0].is_graph_output() or not node.inputs:
        return False
    constant = ir.convenience.get_const_tensor
    return all(value is None or constant(value) is not None for value in node.inputs)


def _evaluate(model: ir.Model, node: ir.Node) -> Array | None:
    """The node's value by the ONNX reference implementation; None where it has none."""
    from onnx.reference import ReferenceEvaluator

    inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
    copy = ir.Node(
        "",
        node.op_type,
        node.inputs,
        node.attributes.values(),
        num_outputs=1,
        overload=node.overload,
    )
    copy.outputs[0].name = "folded"
    graph = ir.Graph([], [copy.outputs[0]], nodes=[copy], opset_imports=dict(model.opset_imports))
    try:
        run = ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=model.ir_version))).run
        feeds = {value.name: array_of(value) for value in inputs}
        value = run(None, feeds)[0]
    except Exception:  # an operator the reference does not implement simply stays in the graph
        return None
    finally:
        for index in range(len(copy.inputs)):
            copy.replace_input_with(index, None)
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None  # no sequences
