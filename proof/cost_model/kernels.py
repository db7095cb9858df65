"""Which kernel of an engine computes which nodes of the graph it was built from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ...graph.model import Graph


def fused_from(engine: Graph, source: Graph) -> list[tuple[str, ...]]:
    """The nodes of the source graph behind each node of a graph that ONNX Runtime optimised.

    A node that kept its name is itself. A fused node keeps the names of the values it reads and
    writes: it stands for what lies between them in the source.

    Args:
        engine: as ONNX Runtime saved it.
        source: what it was made from, canonical or lowered.

    Returns:
        One tuple a node of the engine, in its order; empty for what ONNX Runtime added.
    """
    makers = {
        value.name: node for node in source.model.graph for value in node.outputs if value.name
    }
    names = {node.name for node in source.model.graph if node.name}
    known = {value.name for node in engine.model.graph for value in node.outputs}
    known |= {value.name for value in engine.model.graph.inputs}
    return [_behind(node, names, makers, known) for node in engine.model.graph]


def _behind(
    node: ir.Node,
    names: set[str],
    makers: Mapping[str, ir.Node],
    known: set[str | None],
) -> tuple[str, ...]:
    # ONNX Runtime folds a node into a neighbour that keeps its name, so both ways are followed.
    found: dict[str, None] = {node.name: None} if node.name in names else {}
    open_values = [value.name for value in node.outputs if value.name in makers]
    seen: set[str] = set()
    while open_values:
        name = open_values.pop()
        maker = makers.get(name or "")
        if maker is None or not maker.name or maker.name in seen:
            continue
        seen.add(maker.name)
        found[maker.name] = None
        open_values += [
            value.name for value in maker.inputs if value is not None and value.name not in known
        ]
    return tuple(sorted(found))


def kernels_of(listed: Iterable[Mapping[str, Any]], profile: int = 0) -> dict[str, tuple[str, ...]]:
    """Node -> the kernels that compute it, from the ``kernel_list`` of a TensorRT engine."""
    found: dict[str, list[str]] = {}
    for kernel in listed:
        if kernel["profile"] == profile:
            for node in kernel["nodes"]:
                found.setdefault(str(node), []).append(str(kernel["name"]))
    return {node: tuple(names) for node, names in found.items()}


def unplaced(joined: Sequence[tuple[str, ...]], source: Graph) -> tuple[str, ...]:
    """Nodes of the source that no node of the engine stands for: folded, or made into constants."""
    placed = {name for names in joined for name in names}
    return tuple(node.name for node in source.model.graph if node.name and node.name not in placed)
