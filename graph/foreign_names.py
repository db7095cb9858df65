"""The names in a foreign model: each is defined once, and before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from ..errors import GraphError
from .foreign_tensors import short


def check_names(proto: ModelProto, path: Path) -> None:
    """Names of values, functions and attributes of the whole model.

    Raises:
        GraphError: naming the first node that reads what is not there, or defines what is.
    """
    _check_names(proto.graph, frozenset(), frozenset(), path)
    _check_functions(proto, path)


def _check_names(
    graph: GraphProto | FunctionProto,
    outer: frozenset[str],
    attributes: frozenset[str],
    path: Path,
) -> None:
    """Every value is defined once, and before it is read; as the ONNX IR asks.

    Args:
        graph: whose nodes to check.
        outer: values of the graphs around it.
        attributes: of the function around it.
        path: for messages.
    """
    known = set(outer)
    own: list[str] = []
    if isinstance(graph, GraphProto):
        inputs = [info.name for info in graph.input]
        weights = [tensor.name for tensor in graph.initializer]
        _check_unique("inputs", inputs, path)
        _check_unique("initializers", weights, path)
        own = [*inputs, *weights]
    else:
        own = list(graph.input)
    known.update(own)
    for node in graph.node:
        unknown = [name for name in node.input if name and name not in known]
        if unknown:
            raise GraphError(
                f"{path}: node {_label(node)} reads {short(unknown[0])}, which no input, "
                "initializer or earlier node gives; the graph is broken, export it again"
            )
        _check_attributes(node, attributes, path)
        for inner in inner_graphs(node):
            _check_names(inner, frozenset(known), attributes, path)
        for name in filter(None, node.output):
            if name in known:
                raise GraphError(
                    f"{path}: node {_label(node)} defines {short(name)}, which is defined already; "
                    "expected one definition a value, export the graph again"
                )
            known.add(name)
    outputs = graph.output if isinstance(graph, FunctionProto) else [v.name for v in graph.output]
    missing = [name for name in outputs if name not in known]
    if missing:
        raise GraphError(
            f"{path}: no node, input or initializer gives the output {short(missing[0])}; the "
            "graph is broken, export it again"
        )
    _check_unique("outputs", list(outputs), path)


def _check_attributes(node: NodeProto, attributes: frozenset[str], path: Path) -> None:
    """A constant has one, and only a function's nodes take them from outside, from its own."""
    if node.op_type == "Constant" and not node.domain and len(node.attribute) != 1:
        raise GraphError(
            f"{path}: node {_label(node)} has {len(node.attribute)} attributes; expected its value "
            "and nothing else, export the graph again"
        )
    for attribute in node.attribute:
        wanted = attribute.ref_attr_name
        if wanted and wanted not in attributes:
            raise GraphError(
                f"{path}: node {_label(node)} takes its attribute {short(attribute.name)} from "
                f"{short(wanted)}, which no function around it has; export the graph again"
            )


def _check_unique(kind: str, names: list[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            fault = f"two of the name {short(name)}" if name else "one without a name"
            raise GraphError(f"{path}: expected {kind} with names of their own, got {fault}")
        seen.add(name)


def _check_functions(proto: ModelProto, path: Path) -> None:
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    if len(functions) != len(proto.functions):
        raise GraphError(f"{path}: defines a function twice; expected one definition a function")
    done: set[tuple[str, str, str]] = set()

    def visit(name: tuple[str, str, str], trail: tuple[tuple[str, str, str], ...]) -> None:
        if name in trail:
            raise GraphError(
                f"{path}: function {short(name[1])} calls itself, which ONNX does not allow"
            )
        if name in done or name not in functions:
            return
        for nodes in _lists_of(functions[name].node):
            for node in nodes:
                visit((node.domain, node.op_type, node.overload), (*trail, name))
        done.add(name)

    for node in (node for nodes in node_lists(proto) for node in nodes):
        called = functions.get((node.domain, node.op_type, node.overload))
        if called is not None:
            _check_call(node, called, path)
    for name, function in functions.items():
        visit(name, ())
        attributes = {*function.attribute, *(a.name for a in function.attribute_proto)}
        _check_names(function, frozenset(), frozenset(attributes), path)


def _check_call(node: NodeProto, function: FunctionProto, path: Path) -> None:
    given = (len(node.input), len(node.output))
    most = (len(function.input), len(function.output))
    if given[0] > most[0] or given[1] > most[1]:
        raise GraphError(
            f"{path}: node {_label(node)} calls a function of {most[0]} inputs and {most[1]} "
            f"outputs with {given[0]} and {given[1]}; the graph is broken, export it again"
        )


def node_lists(proto: ModelProto) -> Iterator[list[NodeProto]]:
    """The nodes of every graph and function, a list each."""
    yield from _lists_of(proto.graph.node)
    for function in proto.functions:
        yield from _lists_of(function.node)


def _lists_of(nodes: object) -> Iterator[list[NodeProto]]:
    """The nodes, then those of every graph inside them."""
    own: list[NodeProto] = list(nodes)  # type: ignore[call-overload]
    yield own
    for node in own:
        for graph in inner_graphs(node):
            yield from _lists_of(graph.node)


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in the attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH and not attribute.ref_attr_name:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _label(node: NodeProto) -> str:
    name = node.name or next(filter(None, node.output), "")
    return f"{short(name)} ({node.op_type[:80]})"
