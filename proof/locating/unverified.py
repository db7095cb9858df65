"""The first value of a candidate that nothing vouches for."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from ...graph.model import Graph
from ...graph.tensors import Feeds
from .inner_values import InnerValues
from .landmarks import Landmark
from .pairing import Pair, relative
from .tokens import Tokens


def first_unverified(
    graph: Graph, verified: Iterable[str], mark: Landmark, tokens: Tokens, feeds: Feeds
) -> Pair | None:
    """What stands where a landmark without a counterpart should be.

    Values that lead to one that agrees are right. Of the others the first one that has the
    landmark's shape is where the candidate may first go wrong.

    Args:
        graph: of the candidate.
        verified: values that agree with landmarks before this one.
        mark: the landmark.
        tokens: which tokens are real.
        feeds: what both are fed.

    Returns:
        The value, and its error in the run; None when no other value has the shape.
    """
    right = _with_ancestors(graph, verified)
    with InnerValues(graph) as inner:
        names = [name for name in inner.names if name not in right]
        for name, array in inner.run(feeds, names):
            for layout in tokens.layouts(array.shape):
                rows = tokens.matrix(array, layout)
                if rows.shape == mark.rows.shape:
                    return Pair(
                        value=name,
                        form="same",
                        layout=layout,
                        shape=array.shape,
                        dtype=array.dtype,
                        error=relative(mark, rows),
                    )
    return None


def _with_ancestors(graph: Graph, names: Iterable[str]) -> set[str]:
    values = ir.convenience.create_value_mapping(graph.model.graph)
    found, pending = set[str](), list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        node = values[name].producer()
        if node is not None:
            pending += [value.name for value in node.inputs if value is not None and value.name]
    return found
