"""``fuselage inspect``: what is in a bundle or an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..packages import REWRITING, require
from .console import print_json, print_table, say
from .documents import check_document, write_document
from .edges import print_edges
from .inspect_costs import check_shape, make_costs, show_costs
from .inspect_passes import make_passes, show_passes
from .options import Document, Json, Threads
from .subject import is_bundle

if TYPE_CHECKING:
    from ...proof.cost_model.examine import CostModel
    from ...proof.cost_model.stages import StageCost


def inspect(
    subject: Annotated[
        Path, typer.Argument(metavar="BUNDLE|FILE.onnx", help="A bundle, or an .onnx file.")
    ],
    full: Annotated[bool, typer.Option("--full", help="Hash every file of the bundle.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show all quantised edges, nodes and passes.")
    ] = False,
    costs: Annotated[
        bool, typer.Option("--costs", help="Show what every node costs, and where time goes.")
    ] = False,
    measured: Annotated[
        bool, typer.Option("--measure", help="With --costs: time the nodes on this CPU.")
    ] = False,
    passes: Annotated[
        bool, typer.Option("--passes", help="Show the graph before and after each pass.")
    ] = False,
    shape: Annotated[
        str,
        typer.Option(
            metavar="BATCHxSEQUENCE", help="With --costs and --passes; 8x1+127: 127 in a cache."
        ),
    ] = "8x128",
    target: Annotated[
        str | None, typer.Option(help="With --costs and --passes. Default: ort-cpu.")
    ] = None,
    threads: Threads = 0,
    out: Document = None,
    as_json: Json = False,
) -> None:
    """Show inputs, outputs, operators, targets, precisions, quantised edges and files.

    With --costs, --json prints and --out writes the cost model alone: docs/cost_model.md.
    """
    if (measured or out is not None) and not costs:
        raise typer.BadParameter("--measure and --out go with --costs")
    check_document(out)
    if costs or passes:
        require(REWRITING, "counting a graph")
        check_shape(shape)
    facts = _inspect_bundle(subject, full, every) if is_bundle(subject) else _inspect_file(subject)
    stages: list[StageCost] = []
    if passes:
        stages, sizes = make_passes(subject, target=target, shape=shape)
        show_passes(stages, sizes, shape, every=every)
        facts["passes"] = _stages_facts(stages, sizes)
    if costs:
        model = make_costs(subject, target=target, shape=shape, measured=measured, threads=threads)
        show_costs(model, every=every)
        facts = _document(model, stages)
    if out is not None:
        write_document(out, facts)
    if as_json:
        print_json(facts)


def _stages_facts(stages: Sequence[StageCost], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    from ...proof.cost_model.document import stages_facts

    return stages_facts(stages, sizes)


def _document(model: CostModel, stages: Sequence[StageCost]) -> dict[str, Any]:
    from ...proof.cost_model.document import document

    return document(model, stages)


def _inspect_file(path: Path) -> dict[str, Any]:
    require(REWRITING, "inspecting a graph")
    from ...graph.model import Graph

    graph = Graph.load(path)
    say(
        f"{path}: opset {graph.opset}, {len(graph.model.graph)} nodes, {graph.weight_bytes:,} bytes"
    )
    tensors = [("input", str(spec)) for spec in graph.inputs]
    tensors += [("output", str(spec)) for spec in graph.outputs]
    print_table("tensors", ("kind", "tensor"), tensors)
    print_table("operators", ("operator", "nodes"), list(graph.op_counts.items()))
    return {
        "opset": graph.opset,
        "inputs": [vars(spec) for spec in graph.inputs],
        "outputs": [vars(spec) for spec in graph.outputs],
        "operators": graph.op_counts,
        "weight_bytes": graph.weight_bytes,
    }


def _inspect_bundle(path: Path, full: bool, every: bool) -> dict[str, Any]:
    from ...engines.bundle import Bundle
    from ..report import read_report

    bundle = Bundle.open(path, full=full)
    manifest = bundle.manifest
    weights = "random weights" if manifest.weights == "random" else "pretrained weights"
    revision = f", revision {manifest.model.revision}" if manifest.model.revision else ""
    say(f"{manifest.model.id} ({weights}), {manifest.task}{revision}")
    blockers = bundle.blockers()
    rows = [
        (
            target,
            entry.precision,
            ", ".join(entry.compute_capabilities) or None,
            "yes" if blockers[target] is None else blockers[target],
        )
        for target, entry in manifest.targets.items()
    ]
    print_table("targets", ("target", "precision", "built for", "runs here"), rows)
    mismatches = {name: tuple(map(str, bundle.mismatches(name))) for name in manifest.targets}
    for name, fields in mismatches.items():
        if fields:
            say(f"{name} was built for another machine: {'; '.join(fields)}")
    quantization = read_report(bundle)["quantization"]
    if quantization is not None:
        print_edges(quantization, every=every)
    files = [(name, entry.bytes) for name, entry in manifest.files.items()]
    print_table("files", ("file", "bytes"), files)
    if full:
        say("every file is what the manifest says")
    return {
        "model": vars(manifest.model),
        "weights": manifest.weights,
        "task": manifest.task,
        "targets": {name: vars(entry) for name, entry in manifest.targets.items()},
        "blockers": blockers,
        "mismatches": mismatches,
        "files": {name: vars(entry) for name, entry in manifest.files.items()},
        "quantization": quantization,
        "verification": manifest.verification,
    }
