"""``fuselage optimize``: rewrite a foreign ONNX file for one target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import BuildError
from ..packages import REWRITING, require
from .console import Watch, print_fusion, print_json, say
from .options import Costs, Json, Quiet, Require, Threads, Verify

if TYPE_CHECKING:
    from ...graph.model import Graph
    from ...passes.base import Pass
    from ...passes.costs import CostTable


def optimize(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The graph to rewrite.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="The graph to write.")],
    target: Annotated[
        str, typer.Option(help="canonical, ort-cpu, ort-cuda, tensorrt or tensorrt-rtx.")
    ] = "canonical",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    verify: Verify = "final",
    requirements: Require = None,
    costs: Costs = None,
    threads: Threads = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Canonicalise a graph, lower it for a target, hold every step to the original's numbers.

    Exits with 1, and writes nothing, when a block that is required is left.
    """
    require(REWRITING, "rewriting a graph")
    from ...graph.model import Graph, reject_nan
    from ...passes.presets import CANONICAL
    from ..checks.files import write_graph
    from ..checks.fusion import count_fusions
    from ..checks.requirement import check_requirements, parse_requirements
    from ..checks.verified import parse_verify, run_passes

    wanted, policy = parse_requirements(requirements), parse_verify(verify)
    lower = lowering_of(target, precision, costs)
    watch = Watch(quiet=quiet)
    watch.started("optimize")
    try:
        original = Graph.load(source)
        reject_nan(original.model, str(source))
        canonical = run_passes(CANONICAL, original, verify=policy, threads=threads)
        counts = count_fusions(canonical.graph, original)
        fusion = {kind: count.facts() for kind, count in counts.items()}
        check_requirements(wanted, fusion, f"{source}: nothing was written")
        done = run_passes(lower, canonical.graph, verify=policy, threads=threads, canonical=True)
        files = write_graph(done.graph, out)
    finally:
        watch.close()
    reasons = (canonical.not_checked, done.not_checked)
    not_checked = list(dict.fromkeys(reason for reason in reasons if reason is not None))
    if not quiet:
        print_fusion(f"{source} for {target}", fusion)
    _say_notes(done.graph, _kept_halves(original, target, precision) + not_checked)
    before, after = len(original.model.graph), len(done.graph.model.graph)
    say(f"{before} nodes became {after}, written to {out}")
    if as_json:
        print_json(
            {
                "files": [str(path) for path in files],
                "nodes_before": before,
                "nodes_after": after,
                "fusion": fusion,
                "numbers": {"verify": verify, "not_checked": not_checked},
                "rolled_back": _rolled_back(done.graph),
                "operators": done.graph.op_counts,
            }
        )


def _kept_halves(original: Graph, target: str, asked: str) -> list[str]:
    """No pass widens float16, so a file that holds it is not lowered to another precision."""
    from ..checks.widen import holds_float16
    from ..precision import assign

    if target == "canonical" or not holds_float16(original):
        return []
    precision = assign((target,), asked).precisions[target]
    if precision == "fp16":
        return []
    return [f"what is float16 in the graph stays so, though {target} was to get {precision}"]


def lowering_of(target: str, precision: str, costs: Path | None = None) -> tuple[Pass, ...]:
    """The passes behind the canonical ones; none for the target ``canonical``.

    Raises:
        BuildError: when there is no such target, or it has no use for the precision or the costs.
        PassError: when the file is no cost table of the target.
    """
    from ...engines.targets import TARGETS
    from ...passes.presets import lowering
    from ..precision import QUANTIZED, assign

    if target != "canonical" and target not in TARGETS:
        raise BuildError(f"target {target!r}: expected canonical or one of {', '.join(TARGETS)}")
    if precision in QUANTIZED:
        raise BuildError(f"precision {precision!r} needs the model's tokenizer: use fuselage build")
    if target == "canonical" and precision != "auto":
        raise BuildError(f"precision {precision!r}: canonical graphs keep theirs; name a --target")
    if costs is not None and target != "ort-cpu":
        raise BuildError(f"costs {str(costs)!r}: {target} does not choose by cost, ort-cpu does")
    if target == "canonical":
        return ()
    table = None if costs is None else _read_costs(costs)
    return lowering(target, assign((target,), precision).precisions[target], costs=table)


def _read_costs(path: Path) -> CostTable:
    from ..tuning import load_costs

    table, note = load_costs(path)
    if note is not None:
        say(f"note: {note}")
    return table


def _rolled_back(graph: Graph) -> list[dict[str, str]]:
    return [
        {"name": record.stage, "reason": record.rolled_back}
        for record in graph.history
        if record.rolled_back is not None
    ]


def _say_notes(graph: Graph, not_checked: list[str]) -> None:
    for entry in _rolled_back(graph):
        say(f"note: pass {entry['name']} was rolled back: {entry['reason']}")
    for reason in not_checked:
        say(f"note: {reason}")
