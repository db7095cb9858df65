"""``fuselage explain``: what was fused, what was refused, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..packages import REWRITING, require
from .console import print_json, print_table, say
from .options import Json
from .subject import is_bundle


def explain(
    subject: Annotated[
        Path, typer.Argument(metavar="BUNDLE|FILE.onnx", help="A bundle, or an .onnx file.")
    ],
    as_json: Json = False,
) -> None:
    """List blocks found and fused, and each refusal with its node and reason.

    A bundle is explained from its report; an ONNX file is run through the canonical passes.
    """
    facts = _of_bundle(subject) if is_bundle(subject) else _of_file(subject)
    fusion: Mapping[str, Any] = facts["fusion"]
    rows = [(kind, entry["found"], entry["fused"]) for kind, entry in fusion.items()]
    print_table(str(subject), ("block", "found", "fused"), rows)
    refused = _refusals(facts["stages"])
    if refused:
        print_table("refused", ("rule", "node", "reason"), refused)
    else:
        say("nothing was refused")
    _show_quantization(facts.get("quantization"))
    if as_json:
        print_json({"fusion": fusion, "stages": facts["stages"]})


def _of_bundle(path: Path) -> dict[str, Any]:
    from ...engines.bundle import Bundle
    from ..report import read_report

    return read_report(Bundle.open(path))


def _of_file(path: Path) -> dict[str, Any]:
    require(REWRITING, "explaining a graph")
    from ...graph.model import Graph
    from ...passes.pipeline import PassPipeline
    from ...passes.presets import CANONICAL
    from ..fusion import count_fusions
    from ..report import stage_facts

    graph = PassPipeline(CANONICAL).run(Graph.load(path))
    return {
        "fusion": {kind: asdict(count) for kind, count in count_fusions(graph).items()},
        "stages": [stage_facts(record) for record in graph.history],
    }


def _refusals(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    rows = [
        (entry["rule"], entry["node"] or "the graph", entry["reason"])
        for stage in stages
        for entry in stage["refusals"]
    ]
    rolled = [(stage["name"], "the graph", stage["rolled_back"]) for stage in stages]
    rows += [row for row in rolled if row[2] is not None]
    return list(dict.fromkeys(rows))


def _show_quantization(facts: Mapping[str, Any] | None) -> None:
    if facts is None:
        return
    say(
        f"INT8: {facts['int8']} of {facts['linears']} linears, method {facts['method']}, "
        f"{facts['texts']} texts ({facts['source']})"
    )
    if facts["kept_float"]:
        rows = [(entry["node"], entry["reason"]) for entry in facts["kept_float"]]
        print_table("kept in float", ("node", "reason"), rows)
