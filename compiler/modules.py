"""Which module of the PyTorch model the nodes of a graph came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..graph.model import Graph


def operators_by_module(graph: Graph) -> dict[str, dict[str, int]]:
    """Number of nodes an operator, module by module, in the order in which they run.

    The export names a node ``module.path/Operator``; nodes without a module are under ``""``.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for node in graph.model.graph:
        module = (node.name or "").rpartition("/")[0]
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        counts[module][operator] += 1
    return {module: dict(operators) for module, operators in counts.items()}
