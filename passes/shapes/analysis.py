"""One walk over a graph that tells dtype, shape and content of every value.

Own rules cover the operators transformers are written in; the rest is asked of ONNX's shape
inference a node at a time. A rule that finds a malformed node says nothing: the checks that follow
name the node.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from . import algebra, elementwise, layout, lookups
from .contents import content_of
from .facts import UNKNOWN, Fact, Facts, Shape, Site, declared_dims
from .fallback import ask_onnx

Rule = Callable[[Site], list[Fact]]

_MALFORMED = (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError)


def analyse(model: ir.Model) -> Facts:
    """The facts of the main graph.

    Sizes that an operator needs to be equal get one name; the second walk spreads it to the values
    before that operator.
    """
    opset = model.opset_imports.get("", 0)
    facts = _walk(model.graph, Facts(opset))
    return _walk(model.graph, Facts(opset, facts.settle())) if facts.names else facts


def _walk(graph: ir.Graph, facts: Facts) -> Facts:
    for value in graph.inputs:
        facts[value] = facts.declared(value)
    for node in graph:
        known = [facts[value] for value in node.inputs]
        found = _standard(node, known, facts) if node.domain in ("", "ai.onnx") else []
        found += [UNKNOWN] * (len(node.outputs) - len(found))
        for value, fact in zip(node.outputs, found, strict=False):
            facts[value] = _completed(value, fact, facts)
        if node.outputs and node.domain in ("", "ai.onnx"):
            _add_content(node, known, facts)
    return facts


def _standard(node: ir.Node, inputs: list[Fact], facts: Facts) -> list[Fact]:
    rule = _RULES.get(node.op_type)
    if rule is None:
        return ask_onnx(node, inputs, facts.opset)
    try:
        return rule(Site(node, inputs, facts))
    except _MALFORMED:
        return []


def _completed(value: ir.Value, found: Fact, facts: Facts) -> Fact:
    """What was found, with what the file declares in the places that are open."""
    declared: Shape | None = None if value.shape is None else declared_dims(value)
    shape = declared if found.shape is None else found.shape
    if found.shape is not None and declared is not None and len(declared) == len(found.shape):
        pairs = zip(found.shape, declared, strict=True)
        shape = tuple(
            said if said is not None and (dim is None or algebra.is_guess(dim)) else dim
            for dim, said in pairs
        )
    dtype = found.dtype if found.dtype is not None else value.dtype
    return Fact(dtype, None if shape is None else facts.named(value, shape))


def _add_content(node: ir.Node, inputs: list[Fact], facts: Facts) -> None:
    output = node.outputs[0]
    try:
        content = content_of(node, inputs, facts[output], facts)
    except _MALFORMED:
        return
    if content is not None:
        facts[output] = facts[output]._replace(content=content)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(elementwise.KEEPS, elementwise.keep),
    **dict.fromkeys(elementwise.BROADCASTS, elementwise.spread),
    **dict.fromkeys(("Cast", "CastLike"), elementwise.cast),
    **dict.fromkeys(("IsNaN", "IsInf"), elementwise.flag),
    **dict.fromkeys(("ArgMax", "ArgMin"), lookups.argument),
    **dict.fromkeys(("MatMul", "MatMulInteger"), lookups.multiply),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
         "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        lookups.reduce,
    ),
    "Where": elementwise.choose,
    "QuantizeLinear": elementwise.quantize,
    "DequantizeLinear": elementwise.dequantize,
    "LayerNormalization": elementwise.layer_norm,
    "Reshape": layout.reshape,
    "Transpose": layout.transpose,
    "Squeeze": layout.squeeze,
    "Unsqueeze": layout.unsqueeze,
    "Flatten": layout.flatten,
    "Expand": layout.expand,
    "Tile": layout.tile,
    "Concat": layout.concat,
    "Split": layout.split,
    "Slice": layout.cut,
    "Pad": layout.pad,
    "Gather": lookups.gather,
    "GatherElements": lookups.gather_elements,
    "GatherND": lookups.gather_nd,
    "Shape": lookups.shape,
    "Size": lookups.size,
    "ConstantOfShape": lookups.fill,
    "Range": lookups.count,
    "Gemm": lookups.gemm,
    "Attention": lookups.attend,
}  # fmt: skip
"""Operator -> what it does to dtypes and shapes."""
