"""``fuselage optimize``: rewrite a foreign ONNX file for one target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BuildError
from ..packages import REWRITING, require
from .console import Watch, print_json, print_table, say
from .options import Json, Quiet, Threads


def optimize(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The graph to rewrite.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The graph to write.")],
    target: Annotated[
        str, typer.Option(help="canonical, ort-cpu, ort-cuda, tensorrt or tensorrt-rtx.")
    ] = "canonical",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    threads: Threads = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Canonicalise a graph, lower it for a target, hold every step to the original's numbers."""
    require(REWRITING, "rewriting a graph")
    from ...engines.targets import TARGETS
    from ...graph.model import Graph, reject_nan
    from ...passes.pipeline import PassPipeline
    from ...passes.presets import CANONICAL, lowering
    from ..check_pass import NumberCheck
    from ..files import write_graph
    from ..fusion import count_fusions
    from ..precision import assign

    if target != "canonical" and target not in TARGETS:
        raise BuildError(f"target {target!r}: expected canonical or one of {', '.join(TARGETS)}")
    if precision == "int8":
        raise BuildError("precision 'int8' needs the model's tokenizer: use fuselage build")
    watch = Watch(quiet=quiet)
    watch.started("optimize")
    try:
        original = Graph.load(source)
        reject_nan(original.model, str(source))
        passes = CANONICAL
        if target != "canonical":
            assigned = assign((target,), precision).precisions[target]
            passes += lowering(target, assigned)
        graph = PassPipeline(passes, NumberCheck(original, threads=threads)).run(original)
        files = write_graph(graph, out)
    finally:
        watch.close()
    counts = count_fusions(graph)
    if not quiet:
        rows = [(kind, count.found, count.fused) for kind, count in counts.items()]
        print_table(f"{source} for {target}", ("block", "found", "fused"), rows)
    for record in graph.history:
        if record.rolled_back is not None:
            say(f"note: pass {record.stage} was rolled back: {record.rolled_back}")
    say(f"{len(original.model.graph)} nodes became {len(graph.model.graph)}, written to {out}")
    if as_json:
        print_json(
            {
                "files": [str(path) for path in files],
                "nodes_before": len(original.model.graph),
                "nodes_after": len(graph.model.graph),
                "fusion": {k: {"found": c.found, "fused": c.fused} for k, c in counts.items()},
                "operators": graph.op_counts,
            }
        )
