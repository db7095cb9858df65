"""Give every value a dtype, a rank and sizes that are equal by name when they are equal."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common

from ..base import Pass, PassResult, result
from ..shapes.analysis import analyse
from ..shapes.facts import Fact

_DECLARED = "fuselage.declared_outputs"
"""Key of the graph's metadata under which the declared shapes of its outputs wait."""


@dataclass(frozen=True)
class InferShapes(Pass):
    """Write down what the analysis of the graph knows.

    Sizes are polynomials of the names of the inputs' axes in normal form. Shapes of graph outputs
    are refined too, so that rules can compare them; `RestoreOutputs` gives the declared names back.
    """

    name = "infer-shapes"

    def call(self, model: ir.Model) -> PassResult:
        """Type every value of the main graph."""
        if _has_subgraphs(model):
            # Branches and loop bodies are upstream's; what they give is a declaration to us.
            common.ShapeInferencePass(data_prop=True)(model)
            _forget_elements(model.graph)
        outputs = model.graph.outputs
        model.graph.meta.setdefault(_DECLARED, {value.name: value.shape for value in outputs})
        facts = analyse(model)
        made = [value for node in model.graph for value in node.outputs]
        values = (*model.graph.initializers.values(), *made)
        learnt = sum(_write(value, facts[value]) for value in values)
        return result(model, learnt)


@dataclass(frozen=True)
class RestoreOutputs(Pass):
    """Give graph outputs the names of sizes they had before shapes were inferred."""

    name = "restore-outputs"

    def call(self, model: ir.Model) -> PassResult:
        """Undo what `InferShapes` did to shapes of outputs; sizes without a name keep the new."""
        declared = model.graph.meta.pop(_DECLARED, {})
        restored = 0
        for value in model.graph.outputs:
            before = declared.get(value.name)
            if before is None or value.shape is None or len(before) != len(value.shape):
                continue
            dims = [
                new if isinstance(old, ir.SymbolicDim) and old.value is None else old
                for old, new in zip(before, value.shape, strict=True)
            ]
            if dims != list(value.shape):
                value.shape = ir.Shape(dims)
                restored += 1
        return result(model, restored)


def forget_declared(graph: ir.Graph) -> None:
    """Let outputs keep the shapes they have now: they are those of another interface."""
    graph.meta.pop(_DECLARED, None)


_NO_TENSORS = frozenset(
    {"Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert",
     "SequenceMap", "SplitToSequence"}
)  # fmt: skip


def _forget_elements(graph: ir.Graph) -> None:
    """Leave sequences untyped that upstream gives the type of their elements (onnx_ir 1.1)."""
    for node in graph:
        if node.op_type in _NO_TENSORS and node.domain in ("", "ai.onnx"):
            for value in node.outputs:
                if isinstance(value.type, ir.TensorType):
                    value.type = value.shape = None


def _has_subgraphs(model: ir.Model) -> bool:
    nested = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    attributes = (a for node in model.graph for a in node.attributes.values())
    return bool(model.functions) or any(attribute.type in nested for attribute in attributes)


def _write(value: ir.Value, fact: Fact) -> bool:
    """Whether the value's type or shape changed."""
    changed = False
    typed = value.type is None or isinstance(value.type, ir.TensorType)  # sequences stay
    if fact.dtype is not None and value.dtype != fact.dtype and typed:
        value.type = ir.TensorType(fact.dtype)
        changed = True
    if fact.shape is not None and (value.shape is None or value.shape.dims != fact.shape):
        value.shape = ir.Shape(fact.shape)
        changed = True
    return changed
