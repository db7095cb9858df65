"""ONNX graph -> TensorRT network: parse it from a stub and detached weights, then check it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import BuildError
from .attention import (
    Decomposed,
    decompose_unfusable,
    refuse_shared_query,
    set_key_lengths,
)
from .flavour import network_flags
from .log import LogLines

if TYPE_CHECKING:
    from ...graph.model import Graph
    from ...graph.weights import DetachedModel


@dataclass(frozen=True, kw_only=True)
class ParsedNetwork:
    """A network and everything it borrows memory from; keep it until the plan is built.

    Attributes:
        network: the ``INetworkDefinition``.
        decomposed: attention nodes without a fused kernel.
        parser: the ``OnnxParser`` whose layers the network uses.
        weights: owner of the arrays that the network points into.
    """

    network: Any
    decomposed: tuple[Decomposed, ...]
    parser: Any
    weights: DetachedModel


def parse_network(
    trt: Any, builder: Any, logger: Any, lines: LogLines, graph: Graph
) -> ParsedNetwork:
    """Parse a graph without copying its weights.

    Args:
        trt: the flavour's module.
        builder: an ``IBuilder`` made with ``logger``.
        logger: an ``ILogger`` that writes to ``lines``.
        lines: the log, quoted in errors.
        graph: in the canonical dialect: standard ONNX operators alone.

    Raises:
        BuildError: on nodes of a foreign domain or ones that the compiler does not survive, with
            every message of the parser, on an input that no layer reads, and on key lengths that
            TensorRT does not take.
    """
    from ...graph.weights import detach_weights  # a machine that only runs plans lacks onnx_ir

    _refuse_foreign_nodes(graph)
    refuse_shared_query(graph)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    detached = detach_weights(graph.model)
    _parse(parser, lines, detached)
    set_key_lengths(trt, network, graph)
    _refuse_unread_inputs(network)
    return ParsedNetwork(
        network=network,
        decomposed=decompose_unfusable(trt, network),
        parser=parser,
        weights=detached,
    )


def _refuse_foreign_nodes(graph: Graph) -> None:
    # The parser picks importers by operator name and ignores the domain, so a foreign Gelu or
    # Attention would be built as the standard operator of that name.
    foreign = sorted(
        f"{node.domain}::{node.op_type} ({node.name or node.outputs[0].name})"
        for node in graph.model.graph.all_nodes()
        if node.domain not in ("", "ai.onnx")
    )
    if foreign:
        shown = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise BuildError(
            f"TensorRT needs a graph of standard ONNX operators, got {len(foreign)} foreign nodes: "
            f"{shown}; build from the canonical graph, before it is lowered for another target"
        )


def _parse(parser: Any, lines: LogLines, detached: DetachedModel) -> None:
    if not parser.load_model_proto(detached.graph):
        raise _parser_error(parser, lines, "cannot read the graph")
    for name, array in detached.weights.items():
        if not parser.load_initializer(name, array.ctypes.data, array.nbytes):
            raise _parser_error(
                parser, lines, f"refuses weight {name!r} ({array.dtype}{list(array.shape)})"
            )
    if not parser.parse_model_proto():
        raise _parser_error(parser, lines, "cannot import the graph")


def _parser_error(parser: Any, lines: LogLines, what: str) -> BuildError:
    reasons = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    return BuildError(
        f"the TensorRT parser {what}: {'; '.join(reasons) or lines.take_problems()}; "
        "replace the node by a standard operator that TensorRT imports"
    )


def _describe(parser_error: Any) -> str:
    operator = parser_error.node_operator()
    where = f"{operator} node {parser_error.node_name()!r}" if operator else ""
    return ": ".join(filter(None, (where, parser_error.desc())))


def _refuse_unread_inputs(network: Any) -> None:
    """Refuse an input that no output depends on: some optional inputs are accepted and dropped.

    Looking for a layer that reads it is not enough: one that prepares it, such as a cast, stays in
    the network when the layer behind drops it.
    """
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    needed = _needed_tensors(network)
    unread = [name for name in names if name not in needed]
    if unread:
        raise BuildError(
            f"no output of the TensorRT network depends on the input {unread[0]!r} (inputs: "
            f"{', '.join(names)}), so the engine would ignore it; remove it from the graph, or "
            "express what it does in operators that TensorRT imports"
        )


def _needed_tensors(network: Any) -> set[str]:
    """Names of the tensors that outputs are computed from, through all layers."""
    sources: dict[str, list[str]] = {}
    open_ = [network.get_output(index).name for index in range(network.num_outputs)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors = (layer.get_input(slot) for slot in range(layer.num_inputs))
        read = [tensor.name for tensor in tensors if tensor is not None]
        for slot in range(layer.num_outputs):
            sources[layer.get_output(slot).name] = read
        if not layer.num_outputs:  # a condition or a trip count, which acts through its block
            open_ += read
    needed: set[str] = set()
    while open_:
        name = open_.pop()
        if name not in needed:
            needed.add(name)
            open_ += sources.get(name, ())
    return needed
