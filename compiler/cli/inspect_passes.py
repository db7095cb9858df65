"""The section ``--passes`` of ``fuselage inspect``: a graph before and after each pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .console import print_table
from .subject import is_bundle

if TYPE_CHECKING:
    from ...proof.cost_model.polynomial import Polynomial
    from ...proof.cost_model.stages import StageCost

_DEFAULT_TARGET = "ort-cpu"


def make_passes(
    path: Path, *, target: str | None, shape: str
) -> tuple[list[StageCost], Mapping[str, int]]:
    """The stages of a graph, and the sizes that ``shape`` gives its axes.

    Those of a bundle are the ones its report recorded; its two graphs are counted. Those of an ONNX
    file are run: the canonical passes and the lowering for ``target``.

    Raises:
        FuselageError: when bundle, file, target or shape are at fault.
    """
    from ...graph.model import Graph
    from ...passes.presets import CANONICAL
    from ...proof.cost_model.shape import CostShape, sizes_at
    from ...proof.cost_model.stages import counted, recorded, run_and_count
    from ...proof.cost_model.subject import open_engine
    from .optimize import lowering_of

    asked = CostShape.parse(shape)
    if not is_bundle(path):
        graph = Graph.load(path)
        passes = (*CANONICAL, *lowering_of(target or _DEFAULT_TARGET, "auto"))
        return list(run_and_count(graph, passes)), sizes_at(graph, asked)
    from ...engines.bundle import Bundle
    from ..report import read_report

    engine = open_engine(path, target)
    stages = recorded(read_report(Bundle.open(path))["stages"])
    if engine.source is not None:
        stages.append(counted("canonical graph", engine.source))
    if engine.graph is not engine.source:
        stages.append(counted(f"engine {engine.target}", engine.graph))
    return stages, sizes_at(engine.graph, asked)


def show_passes(
    stages: Sequence[StageCost], sizes: Mapping[str, int], shape: str, *, every: bool
) -> None:
    """Print what passes did.

    Args:
        stages: from `make_passes`.
        sizes: to evaluate operations and bytes at.
        shape: they come from.
        every: also passes that changed nothing.
    """
    shown = [
        stage
        for index, stage in enumerate(stages)
        if every or not index or stage.rewrites or stage.rolled_back or _moved(stages, index)
    ]
    rows = [
        (
            stage.stage,
            stage.nodes,
            _scaled(stage.flops, sizes, 1e9),
            _scaled(stage.moved, sizes, 1e6),
            stage.rewrites,
            stage.refusals,
            stage.rolled_back or _changes(stage),
        )
        for stage in shown
    ]
    columns = ("stage", "nodes", "GFLOP", "MB", "rewrites", "refused", "removed (- added)")
    print_table(f"stages at {shape}", columns, rows)


def _moved(stages: Sequence[StageCost], index: int) -> bool:
    before, after = stages[index - 1], stages[index]
    return before.nodes != after.nodes or (after.removed is None and after.flops is not None)


def _changes(stage: StageCost) -> str | None:
    changes = stage.removed or {}
    return ", ".join(f"{count} {op}" for op, count in changes.items()) or None


def _scaled(polynomial: Polynomial | None, sizes: Mapping[str, int], unit: float) -> str:
    """At the shape; a dash where the graph has sizes of its own."""
    from ...errors import GraphError

    if polynomial is None:
        return "-"
    try:
        return f"{float(polynomial.at(sizes)) / unit:,.3f}"
    except GraphError:
        return "-"
