"""A graph as an engine, so that the runtime of its task can answer with it."""

from __future__ import annotations

from ...engines.base import Engine
from ...graph.model import Graph
from ...graph.tensors import Array, Feeds
from ..session import GraphSession


class GraphEngine(Engine):
    """Runs a graph on the CPU exactly as it is written, Q/DQ in float.

    Args:
        graph: any graph.
        threads: CPU threads, 0 for all physical cores.

    Raises:
        CalibrationError: when ONNX Runtime refuses the graph.
        MissingPackageError: without onnxruntime.
    """

    target = "ort-cpu"

    def __init__(self, graph: Graph, *, threads: int = 0) -> None:
        self.inputs = graph.inputs
        self.outputs = graph.outputs
        self._session = GraphSession(graph, threads=threads)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once."""
        return self._session.run(feeds)

    def close(self) -> None:
        """Release the session and its memory."""
        self._session.close()
