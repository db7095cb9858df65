"""The graph's way through the passes: what each changed, what was fused, what was refused."""

from __future__ import annotations

from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..reader import Facts
from ..tables import Table, columns

_EXPORT = "export"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A pass that changed the graph."""

    name: str
    options: str
    rewrites: str
    before: int
    after: int
    change: str
    seconds: str
    rolled_back: str | None


@dataclass(frozen=True)
class Leg:
    """A stretch of the way: for every target, or for one."""

    title: str
    steps: tuple[Step, ...]
    idle: tuple[str, ...]
    """Passes that found nothing to do."""


@dataclass(frozen=True, kw_only=True)
class PassesSection:
    """The section."""

    legs: tuple[Leg, ...]
    largest: int
    fusion: Table
    refusals: Table | None
    summary: str


def make_passes(bundle: BundleFacts) -> PassesSection:
    """Follow the graph from the export to each engine."""
    stages = bundle.report.parts("stages")
    ways = {target: _way(specs, stages) for target, specs in bundle.manifest.passes.items()}
    shared = _shared([list(way) for way in ways.values()])
    legs = [_leg("For every engine", [stages[index] for index in shared])]
    for target, way in ways.items():
        legs.append(_leg(f"For {target}", [stages[index] for index in way[len(shared) :]]))
    return PassesSection(
        legs=tuple(leg for leg in legs if leg.steps or leg.idle),
        largest=max((stage.count("nodes_after") or 0 for stage in stages), default=1) or 1,
        fusion=_fusion(bundle),
        refusals=_refusals(bundle),
        summary=_summary(stages, ways, shared),
    )


def node_counts(bundle: BundleFacts) -> dict[str, int]:
    """Nodes of the graph as exported, and as each engine was built from it."""
    stages = bundle.report.parts("stages")
    counts = {}
    for target, specs in bundle.manifest.passes.items():
        way = _way(specs, stages)
        if way:
            counts[_EXPORT] = stages[way[0]].count("nodes_after") or 0
            counts[target] = stages[way[-1]].count("nodes_after") or 0
    return counts


def _way(specs: tuple[str, ...], stages: tuple[Facts, ...]) -> list[int]:
    """The records of one target's passes: in order, each starting where the last one ended."""
    way: list[int] = []
    nodes: int | None = None
    for spec in specs:
        start = way[-1] + 1 if way else 0
        for index in range(start, len(stages)):
            stage = stages[index]
            fits = nodes is None or stage.count("nodes_before") == nodes
            if stage.text("name") == spec and fits:
                way.append(index)
                nodes = stage.count("nodes_after")
                break
    return way


def _shared(ways: list[list[int]]) -> list[int]:
    shared: list[int] = []
    for indices in zip(*ways, strict=False):
        if len(set(indices)) > 1:
            break
        shared.append(indices[0])
    return shared if len(ways) > 1 else (ways[0] if ways else [])


def _leg(title: str, stages: list[Facts]) -> Leg:
    steps, idle = [], []
    for stage in stages:
        name, _, options = (stage.text("name") or "").partition("(")
        before, after = stage.count("nodes_before") or 0, stage.count("nodes_after") or 0
        rewrites = stage.count("rewrites") or 0
        if name != _EXPORT and not rewrites and before == after and "rolled_back" not in stage:
            idle.append(name)
            continue
        steps.append(
            Step(
                name=name,
                options=options.removesuffix(")"),
                rewrites=numerals.count(rewrites) if rewrites else numerals.DASH,
                before=before,
                after=after,
                change=_signed(after - before) if name != _EXPORT else "",
                seconds=numerals.seconds(stage.number("seconds")),
                rolled_back=stage.text("rolled_back"),
            )
        )
    return Leg(title, tuple(steps), tuple(dict.fromkeys(idle)))


def _signed(change: int) -> str:
    if not change:
        return "±0"
    return f"+{change}" if change > 0 else numerals.count(change)


def _fusion(bundle: BundleFacts) -> Table:
    rows = []
    for kind, entry in bundle.report.named("fusion"):
        found, fused = entry.count("found") or 0, entry.count("fused") or 0
        if found:
            left = numerals.count(found - fused) if found != fused else "none"
            rows.append(
                [kind.replace("_", " "), numerals.count(found), numerals.count(fused), left]
            )
    return Table(
        caption="Blocks found in the exporter's graph, and fused",
        columns=columns("block|#found|#fused|#left"),
        rows=rows,
    )


def _refusals(bundle: BundleFacts) -> Table | None:
    refused = [
        (kind.replace("_", " "), refusal)
        for kind, entry in bundle.report.named("fusion")
        for refusal in entry.parts("refusals")
    ]
    refused += [
        ((stage.text("name") or "").partition("(")[0], refusal)
        for stage in bundle.report.parts("stages")
        for refusal in stage.parts("refusals")
    ]
    rows = [[where, *_refusal(refusal)] for where, refusal in refused]
    if not rows:
        return None
    return Table(
        caption="What passes declined to rewrite, and why",
        columns=columns("pass or block|node|reason"),
        rows=rows,
    )


def _refusal(refusal: Facts) -> list[str]:
    return [refusal.text("node") or numerals.DASH, refusal.text("reason") or numerals.DASH]


def _summary(stages: tuple[Facts, ...], ways: dict[str, list[int]], shared: list[int]) -> str:
    if not stages or not shared:
        return "The report names no passes."
    first = stages[shared[0]].count("nodes_after")
    ends = [
        f"{numerals.count(stages[way[-1]].count('nodes_after'))} for {target}"
        for target, way in ways.items()
        if way
    ]
    least = min(stages[index].count("nodes_after") or 0 for index in shared)
    return (
        f"The exporter wrote {numerals.count(first)} nodes. The shared passes brought them down to "
        f"{numerals.count(least)}; what each engine was built from has {' and '.join(ends)}."
    )
