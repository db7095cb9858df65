"""What each pass did to the cost of a graph: nodes, operations and bytes before and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...graph.model import Graph
from ...passes.base import Pass
from ...passes.pipeline import attempt
from .counting import GraphCost, count
from .polynomial import Polynomial


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """A graph behind one pass.

    Attributes:
        stage: spec of the pass; ``as given`` for the graph before the first.
        nodes: of the main graph.
        flops: operations; None where the graph was not at hand.
        moved: bytes; None where the graph was not at hand.
        rewrites: matches the pass replaced.
        removed: operator -> how many nodes fewer, of those that changed; more is below 0.
        refusals: matches it declined.
        rolled_back: why its result was thrown away; None when it was kept.
        uncounted: names of nodes that could not be counted.
    """

    stage: str
    nodes: int
    flops: Polynomial | None = None
    moved: Polynomial | None = None
    rewrites: int = 0
    removed: Mapping[str, int] | None = None
    refusals: int = 0
    rolled_back: str | None = None
    uncounted: tuple[str, ...] = ()


def run_and_count(graph: Graph, passes: Sequence[Pass]) -> Iterator[StageCost]:
    """Run passes one by one, without comparing numbers, and count behind each.

    Args:
        graph: to start from; it is not changed.
        passes: in order. One that fails is rolled back and says why.

    Yields:
        The graph as given, then one entry a pass.
    """
    cost = count(graph)
    yield _entry("as given", graph, cost)
    for step in passes:
        stage = attempt(step, graph)
        if stage.problem is not None:
            stage = stage.rolled_back(stage.problem)
        record = stage.record()
        removed: dict[str, int] = {}
        if stage.changed:
            removed = _difference(stage.before, stage.after)
            graph, cost = stage.after, count(stage.after)
        yield _entry(
            record.stage,
            graph,
            cost,
            rewrites=record.rewrites,
            removed=removed,
            refusals=len(record.refusals),
            rolled_back=record.rolled_back,
        )


def recorded(stages: Sequence[Mapping[str, Any]]) -> list[StageCost]:
    """The stages of a bundle's ``report.json``, which has nodes, not operations or bytes."""
    return [
        StageCost(
            stage=str(stage["name"]),
            nodes=int(stage["nodes_after"]),
            rewrites=int(stage["rewrites"]),
            refusals=len(stage["refusals"]),
            rolled_back=stage["rolled_back"],
        )
        for stage in stages
    ]


def counted(stage: str, graph: Graph) -> StageCost:
    """A graph of which only the result is at hand."""
    return _entry(stage, graph, count(graph))


def _entry(
    stage: str,
    graph: Graph,
    cost: GraphCost,
    *,
    rewrites: int = 0,
    removed: Mapping[str, int] | None = None,
    refusals: int = 0,
    rolled_back: str | None = None,
) -> StageCost:
    return StageCost(
        stage=stage,
        nodes=len(graph.model.graph),
        flops=cost.flops,
        moved=cost.moved_bytes,
        rewrites=rewrites,
        removed=removed or {},
        refusals=refusals,
        rolled_back=rolled_back,
        uncounted=tuple(node.name for node in cost.problems),
    )


def _difference(before: Graph, after: Graph) -> dict[str, int]:
    """Operator -> nodes that went, below 0 for those that came."""
    old, new = before.op_counts, after.op_counts
    changes = {op: old.get(op, 0) - new.get(op, 0) for op in {*old, *new}}
    return {op: change for op, change in sorted(changes.items()) if change}
