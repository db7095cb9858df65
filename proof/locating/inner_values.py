"""The float values inside an ONNX graph, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import onnx_ir as ir

from ...calibration.session import GraphSession
from ...graph.model import Graph
from ...graph.tensors import Array, Feeds

_MOST_BYTES = 1 << 28
"""Of the values that one run returns."""

_FIRST = 16
"""Values the first run returns, before their sizes are known."""

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, None})


class InnerValues:
    """A graph in ONNX Runtime, its optimiser off, with every float value as an output.

    Args:
        graph: any graph.
        names: the values to return, all float values of the main graph by default.

    Raises:
        CalibrationError: when ONNX Runtime refuses the graph.
    """

    def __init__(self, graph: Graph, names: Sequence[str] | None = None) -> None:
        self._nodes = {
            value.name: node
            for node in graph.model.graph
            for value in node.outputs
            if value.name and _may_be_float(value)
        }
        self.names = tuple(self._nodes) if names is None else tuple(names)
        self._session = GraphSession(graph, self.names)

    def name_of(self, name: str) -> str:
        """Name of the node that gives a value."""
        return node_name(self._nodes[name])

    def run(self, feeds: Feeds, names: Sequence[str] | None = None) -> Iterator[tuple[str, Array]]:
        """Values in topological order; the graph runs once for every 256 MiB of them.

        Args:
            feeds: one array an input.
            names: some of the values, all by default.

        Raises:
            CalibrationError: when the graph cannot be run on the feeds.
        """
        wanted = self.names if names is None else tuple(names)
        start, count = 0, _FIRST
        while start < len(wanted):
            chunk = wanted[start : start + count]
            arrays = self._session.run(feeds, chunk)
            largest = max((array.nbytes for array in arrays.values()), default=1)
            count = max(1, min(_MOST_BYTES // max(largest, 1), 4 * _FIRST))
            start += len(chunk)
            for name, array in arrays.items():
                if array.dtype.kind == "f":
                    yield name, array

    def close(self) -> None:
        """Release the session."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _may_be_float(value: ir.Value) -> bool:
    if isinstance(value.type, ir.SequenceType | ir.OptionalType):
        return False
    return value.dtype in _FLOATS


def node_name(node: ir.Node) -> str:
    """Name of a node; what it gives, where it has none."""
    return node.name or f"the one that gives {node.outputs[0].name}"
