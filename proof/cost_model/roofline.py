"""Where the time goes: classes of nodes ranked, each against the least it could take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .counting import GraphCost
from .fitting import NodeTimes, Sizes
from .peaks import Peaks


@dataclass(frozen=True, kw_only=True)
class NodeFloor:
    """The least a node could take.

    Attributes:
        flops: operations at the shape.
        moved: bytes at the shape.
        seconds: the longer of both at the peaks.
        bound: ``compute`` or ``memory``; ``none`` where there is neither work nor traffic.
    """

    flops: float
    moved: float
    seconds: float
    bound: str


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """A class of nodes.

    Attributes:
        name: operator, with the dims of the weight for products.
        nodes: how many.
        flops: operations of all.
        moved: bytes of all.
        floor: seconds they take at least.
        seconds: they take, measured or else predicted; None when neither is known.
        share: of the time of all nodes; of all floors when no time is known.
        achieved: floor over time; None when no time is known.
        bound: what most of the floor is made of.
    """

    name: str
    nodes: int
    flops: float
    moved: float
    floor: float
    seconds: float | None
    share: float
    achieved: float | None
    bound: str


def floors(cost: GraphCost, sizes: Sizes, peaks: Peaks) -> list[NodeFloor]:
    """The floor of every node, in order."""
    found = []
    for node in cost.nodes:
        flops, moved = float(node.flops.at(sizes)), float(node.moved_bytes.at(sizes))
        bound = peaks.bound(flops, moved, integer=node.integer) if flops or moved else "none"
        seconds = peaks.floor(flops, moved, integer=node.integer)
        found.append(NodeFloor(flops=flops, moved=moved, seconds=seconds, bound=bound))
    return found


def bottlenecks(
    cost: GraphCost, least: Sequence[NodeFloor], times: NodeTimes | None
) -> list[Bottleneck]:
    """Classes of nodes, those that take longest first.

    Args:
        cost: of the graph.
        least: its floors.
        times: of its nodes; None ranks by floor.
    """
    names = [node.op + (f" {list(node.weight)}" if node.weight else "") for node in cost.nodes]
    weighed = [floor.seconds for floor in least] if times is None else [t or 0.0 for t in times]
    everything = sum(weighed) or 1.0
    found = []
    for name in dict.fromkeys(names):
        members = [index for index, other in enumerate(names) if other == name]
        taken = sum(weighed[index] for index in members)
        floor = sum(least[index].seconds for index in members)
        by_compute = sum(least[i].seconds for i in members if least[i].bound == "compute")
        idle = all(least[index].bound == "none" for index in members)
        found.append(
            Bottleneck(
                name=name,
                nodes=len(members),
                flops=sum(least[index].flops for index in members),
                moved=sum(least[index].moved for index in members),
                floor=floor,
                seconds=None if times is None else taken,
                share=taken / everything,
                achieved=None if times is None or not taken else floor / taken,
                bound="none" if idle else "compute" if 2 * by_compute > floor else "memory",
            )
        )
    return sorted(found, key=lambda row: -row.share)
