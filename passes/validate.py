"""Structural checks of a graph: what every pass must leave true."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnx import checker


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
    """What the ONNX checker says, asked once for nodes that look alike to it.

    It looks at operator, number of inputs and outputs, and names and types of attributes; asking
    about the whole model instead costs ten times as much, most of it spent on writing protobuf.
    """
    attributes = (item for node in model.graph for item in node.attributes.values())
    if model.functions or any(item.type in _NESTED for item in attributes):
        return _complaint(partial(common.CheckerPass(), model))
    context = checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = dict(model.opset_imports)
    for node in {_signature(node): node for node in model.graph}.values():
        reason = _complaint(partial(checker.check_node, ir.to_proto(node), context))
        if reason is not None:
            return reason
    return _untyped(model.graph)


def _signature(node: ir.Node) -> tuple[object, ...]:
    present = tuple(value is not None for value in node.inputs)
    attributes = sorted((item.name, item.type) for item in node.attributes.values())
    return (node.domain, node.op_type, node.overload, present, len(node.outputs), *attributes)


def _untyped(graph: ir.Graph) -> str | None:
    for value in (*graph.inputs, *graph.outputs):
        if value.type is None or (isinstance(value.type, ir.TensorType) and value.shape is None):
            return f"ONNX checker: {value.name!r} has type {value.type} and shape {value.shape}"
    return None


def _complaint(check: Callable[[], object]) -> str | None:
    try:
        check()
    except Exception as error:  # the checker raises its own and protobuf's types
        cause = error.__cause__ or error
        return f"ONNX checker: {' '.join(str(cause).split())[:300]}"
    return None


def layout(model: ir.Model) -> list[object]:
    """What a model is made of, by identity: equal before and after nothing was done to it."""
    parts: list[object] = [*model.opset_imports.items(), *model.functions]
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            parts += (_marks(value), id(value.const_value))
        for node in graph:
            attributes = [*node.attributes.items()]
            named = tuple([(name, id(item)) for name, item in attributes])
            parts.append((id(node), node.op_type, node.domain, named, *map(id, node.inputs)))
            parts += map(_marks, node.outputs)
            pending += [each.as_graph() for _, each in attributes if each.type == _NESTED[0]]
    return parts


def _marks(value: ir.Value) -> tuple[object, ...]:
    shape = value.shape
    return id(value), value.name, id(value.type), None if shape is None else shape.dims


_NESTED = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
