"""Structural checks of a graph: what every pass must leave true."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def first_defect(model: ir.Model) -> str | None:
    """None for a sound model, else the first thing wrong.

    Checks single assignment of names, that every input is defined before it is read, that every
    initializer has a value, and the ONNX checker's rules (operator exists in the imported opset,
    attributes and input counts fit). Weights are not read.
    """
    graph = model.graph
    defined: set[str] = set()
    for value in (*graph.inputs, *graph.initializers.values()):
        defined.add(value.name or "")
    for name, value in graph.initializers.items():
        if value.const_value is None:
            return f"initializer {name!r} has no value"
    for node in graph:
        reason = _node_defect(node, defined)
        if reason is not None:
            return reason
        defined.update(value.name for value in node.outputs if value.name)
    missing = [value.name for value in graph.outputs if value.name not in defined]
    if missing:
        return f"graph output {missing[0]!r} is produced by no node"
    return _checker_complaint(model)


def _node_defect(node: ir.Node, defined: set[str]) -> str | None:
    for value in node.inputs:
        if value is not None and value.name is not None and value.name not in defined:
            return f"node {node.name!r} ({node.op_type}) reads {value.name!r} before it is defined"
    for value in node.outputs:
        if value.name in defined:
            return f"node {node.name!r} ({node.op_type}) defines {value.name!r} a second time"
    return None


def _checker_complaint(model: ir.Model) -> str | None:
    try:
        common.CheckerPass()(model)
    except Exception as error:  # the checker raises its own and protobuf's types
        cause = error.__cause__ or error
        return f"ONNX checker: {' '.join(str(cause).split())[:300]}"
    return None
