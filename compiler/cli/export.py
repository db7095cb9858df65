"""``fuselage export``: model to canonical ONNX, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from ..models.source import resolve_model
from ..packages import EXPORTING, require
from .console import Watch, print_json, say
from .options import Json, Quiet


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Alias (minilm), hub id, or local folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The .onnx file to write.")],
    task: Annotated[str, typer.Option(help="auto picks by the architecture.")] = "auto",
    weights: Annotated[str, typer.Option(help="pretrained or random.")] = "pretrained",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep what the exporter wrote; run no pass.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a model as ONNX opset 23, canonicalised and checked by numbers."""
    require(EXPORTING, "exporting a model")
    from ...passes.presets import CANONICAL
    from ..checks.files import write_graph
    from ..checks.verified import run_passes
    from ..exporting.export import export as export_model

    watch = Watch(quiet=quiet)
    watch.started("export")
    try:
        source = resolve_model(
            model, revision=revision, weights=cast(Literal["pretrained", "random"], weights)
        )
        exported = export_model(source, task)
        graph = exported.graph
        if not raw:
            graph = run_passes(CANONICAL, graph).graph
        files = write_graph(graph, out)
    finally:
        watch.close()
    say(f"{source}: {exported.task_spec.task}, {len(graph.model.graph)} nodes in {out}")
    if as_json:
        print_json(
            {
                "files": [str(path) for path in files],
                "task": exported.task_spec.to_dict(),
                "operators": graph.op_counts,
            }
        )
