"""``fuselage bisect``: which pass, and which node, breaks a graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import BuildError
from ..packages import REWRITING, require
from .console import Watch, print_json, print_table, say
from .optimize import lowering_of
from .options import Json, Quiet, Threads

if TYPE_CHECKING:
    from ..checks.bisect import Culprit

_WHAT = {
    "raises": "raises",
    "malformed": "leaves a malformed graph",
    "numbers": "changes the answer",
}


def bisect(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The graph before any pass.")],
    target: Annotated[
        str, typer.Option(help="canonical, ort-cpu, ort-cuda, tensorrt or tensorrt-rtx.")
    ] = "canonical",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the graphs before and after the pass, and the feeds."),
    ] = None,
    threads: Threads = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the passes without roll-back and name the first that breaks the graph.

    A pass is guilty when it raises, leaves a malformed graph, or changes the answer on sampled
    inputs; then the node whose output is the first to differ is named too. Exits with 1 when a
    pass is guilty.
    """
    require(REWRITING, "bisecting a graph")
    from ...graph.model import Graph
    from ...passes.presets import CANONICAL
    from ..checks.bisect import bisect as find_culprit

    _check_folder(out)
    lowering = lowering_of(target, precision)
    watch = Watch(quiet=quiet)
    watch.started("bisect")
    try:
        verdict = find_culprit(Graph.load(source), CANONICAL, lowering, threads)
    finally:
        watch.close()
    culprit, files = verdict.culprit, list[Path]()
    if culprit is not None and out is not None:
        files = _write(culprit, out)
    if not quiet:
        _show(culprit, files)
    if verdict.not_checked is not None:
        say(f"note: numbers were not checked: {verdict.not_checked}")
    if as_json:
        facts = None if culprit is None else _facts(culprit)
        print_json(
            {
                "culprit": facts,
                "not_checked": verdict.not_checked,
                "files": [str(path) for path in files],
            }
        )
    if culprit is not None:
        raise typer.Exit(1)
    say(f"no pass breaks {source} for {target}")


def _check_folder(out: Path | None) -> None:
    if out is not None and not out.is_dir():
        raise BuildError(f"{out}: expected a folder to write to; create it first")


def _facts(culprit: Culprit) -> dict[str, Any]:
    difference, sample = culprit.difference, culprit.sample
    return {
        "pass": culprit.name,
        "place": culprit.place,
        "of": culprit.of,
        "fault": culprit.fault,
        "reason": culprit.reason,
        "source": culprit.source,
        "sample": None
        if sample is None
        else {name: list(array.shape) for name, array in sample.feeds.items()},
        "difference": None
        if difference is None
        else {
            "value": difference.value,
            "node": difference.node,
            "operator": difference.operator,
            "written": list(difference.written),
            "agreeing": list(difference.agreeing),
            "max_abs": difference.max_abs,
            "relative": difference.relative,
            "shape": list(difference.shape),
        },
    }


def _show(culprit: Culprit | None, files: list[Path]) -> None:
    if culprit is None:
        return
    rows = [("pass", f"{culprit.name}, {culprit.place} of {culprit.of}, {_WHAT[culprit.fault]}")]
    rows.append(("reason", culprit.reason))
    if culprit.source is not None:
        rows.append(("raised at", culprit.source))
    difference = culprit.difference
    if difference is not None:
        rows += [
            ("node", f"{difference.node} ({difference.operator})"),
            ("first value off", f"{difference.value} {list(difference.shape)}"),
            ("largest |d|", f"{difference.max_abs:.3g}"),
            ("relative error", f"{difference.relative:.3g}"),
            ("still right", ", ".join(difference.agreeing) or "the inputs"),
            ("written by the pass", ", ".join(difference.written) or "none before this value"),
        ]
    if culprit.sample is not None:
        rows.append(("sample", culprit.sample.shapes))
    rows.append(("to reproduce", _how(culprit, files)))
    print_table("first fault", ("what", ""), rows)


def _how(culprit: Culprit, files: list[Path]) -> str:
    if not files:
        return "add --out FOLDER: it gets before.onnx, after.onnx and feeds.npz"
    folder = files[0].parent
    if culprit.fault != "numbers":
        return f"run the pass {culprit.name} on {folder / 'before.onnx'}"
    tap = "" if culprit.difference is None else f", with {culprit.difference.value} as an output"
    return f"run before.onnx and after.onnx in {folder} on feeds.npz{tap}"


def _write(culprit: Culprit, out: Path) -> list[Path]:
    """The graphs and the feeds; a graph that is malformed or was never made is left out."""
    import numpy as np

    from ..checks.files import write_graph

    files = [*write_graph(culprit.before, out / "before.onnx")]
    if culprit.fault == "numbers":
        files += write_graph(culprit.after, out / "after.onnx")
    if culprit.sample is not None:
        feeds: dict[str, Any] = dict(culprit.sample.feeds)
        np.savez(out / "feeds.npz", **feeds)
        files.append(out / "feeds.npz")
    return files
