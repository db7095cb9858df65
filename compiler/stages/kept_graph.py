"""A graph as a product: its files, its history, and its digest, known without reading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...graph.history import StageRecord
from .product import Product, record_facts, records_of

if TYPE_CHECKING:
    from ...graph.model import Graph

MODEL, WEIGHTS = "model.onnx", "model.weights"


@dataclass(frozen=True)
class KeptGraph:
    """A graph that a stage has written.

    Every later stage reads it from there, whether it was made now or comes from the cache: the
    bundle is the same either way, and weights are mapped, not held.

    Attributes:
        product: facts of `graph_facts`, files of `keep_graph`.
    """

    product: Product

    @property
    def digest(self) -> str:
        """`Graph.digest`."""
        return str(self.product.facts["digest"])

    @property
    def history(self) -> tuple[StageRecord, ...]:
        """What happened to it."""
        return records_of(self.product.facts["history"])

    def load(self) -> Graph:
        """The graph, with its history."""
        from ...graph.model import Graph

        if WEIGHTS in self.product.files:
            self.product.path(WEIGHTS)
        return Graph(Graph.load(self.product.path(MODEL)).model, self.history)


def keep_graph(graph: Graph, folder: Path) -> None:
    """Write a graph into the folder of its product."""
    graph.save(folder / MODEL, WEIGHTS)


def graph_facts(graph: Graph) -> dict[str, Any]:
    """What is known about a graph without reading it."""
    return {
        "digest": graph.digest(),
        "history": record_facts(graph.history),
        "weight_bytes": graph.weight_bytes,
        "nodes": len(graph.model.graph),
    }
