"""The exported graph becomes canonical: the graph of the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines.bundle import SOURCE
from ..cache.code import code_digest
from ..checks.requirement import check_requirements, parse_requirements
from ..progress import Journal
from .context import Context, versions
from .kept_graph import KeptGraph, graph_facts, keep_graph

if TYPE_CHECKING:
    from ...graph.model import Graph
    from ...passes.base import Pass

PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime")


def canonicalise(context: Context, exported: KeptGraph) -> KeptGraph:
    """Run the canonical passes, or find what they leave.

    Raises:
        VerificationError: when a block that the request requires is left.
    """

    def make(folder: Path, journal: Journal) -> dict[str, Any]:
        from ...passes.presets import CANONICAL
        from ..checks.fusion import count_fusions
        from ..modules import operators_by_module

        original = exported.load()
        graph = run_and_tell(context, CANONICAL, original, journal)
        counts = count_fusions(graph, original)
        keep_graph(graph, folder)
        fusion = {kind: count.facts() for kind, count in counts.items()}
        outline = {"nodes": len(original.model.graph), "modules": operators_by_module(original)}
        return {**graph_facts(graph), "fusion": fusion, "exported": outline}

    fields = {
        "graph": exported.digest,
        "verify": context.request.verify,
        "versions": versions(*PACKAGES),
        "code": code_digest(),
    }
    folder = context.writer.path(SOURCE).parent
    key = context.key("canonicalise", fields)
    product = context.runner.run(key, "canonicalise", make, folder)
    required = parse_requirements(context.request.require)
    check_requirements(required, product.facts["fusion"], f"{context.source}: nothing was written")
    product.fetch()
    return KeptGraph(product)


def run_and_tell(
    context: Context,
    passes: tuple[Pass, ...],
    graph: Graph,
    journal: Journal,
    *,
    canonical: bool = False,
    unquantized: Graph | None = None,
) -> Graph:
    """Run passes, held to numbers as asked; the journal hears what was rolled back or not checked.

    Args:
        context: of the build.
        passes: first to last.
        graph: what they start from.
        journal: gets a record a pass.
        canonical: whether the graph went through the canonical passes.
        unquantized: the float graph when the graph has Q/DQ.
    """
    from ..checks.verified import parse_verify, run_passes

    done = run_passes(
        passes,
        graph,
        verify=parse_verify(context.request.verify),
        threads=context.request.threads,
        canonical=canonical,
        unquantized=unquantized,
        on_record=journal.records.append,
    )
    if done.not_checked is not None:
        journal.not_checked.append(done.not_checked)
        journal.note(done.not_checked)
    for record in journal.records:
        if record.rolled_back is not None:
            journal.note(f"pass {record.stage} was rolled back: {record.rolled_back}")
    return done.graph
