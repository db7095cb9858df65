"""``fuselage inspect``: what is in a bundle or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..packages import REWRITING, require
from .console import print_json, print_table, say
from .edges import print_edges
from .options import Json
from .subject import is_bundle


def inspect(
    subject: Annotated[
        Path, typer.Argument(metavar="BUNDLE|FILE.onnx", help="A bundle, or an .onnx file.")
    ],
    full: Annotated[bool, typer.Option("--full", help="Hash every file of the bundle.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show all quantised edges, not the worst ten.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show inputs, outputs, operators, targets, precisions, quantised edges and files."""
    facts = _inspect_bundle(subject, full, every) if is_bundle(subject) else _inspect_file(subject)
    if as_json:
        print_json(facts)


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
