"""``fuselage explain``: what was fused, what was refused, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checks.requirement import check_requirements, parse_requirements
from ..packages import REWRITING, require
from .console import print_fusion, print_json, print_table, say
from .options import Json, Require, Threads, Verify
from .subject import is_bundle


def explain(
    subject: Annotated[
        Path, typer.Argument(metavar="BUNDLE|FILE.onnx", help="A bundle, or an .onnx file.")
    ],
    verify: Verify = "final",
    requirements: Require = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """List blocks found and fused, and each one left with its node and the reason.

    A bundle is explained from its report; an ONNX file is run through the canonical passes. Exits
    with 1 when a block that is required is left.
    """
    wanted = parse_requirements(requirements)
    facts = _of_bundle(subject) if is_bundle(subject) else _of_file(subject, verify, threads)
    fusion: Mapping[str, Any] = facts["fusion"]
    print_fusion(str(subject), fusion)
    refused = _refusals(facts)
    if refused:
        print_table("refused", ("rule", "node", "reason"), refused)
    else:
        say("nothing was refused")
    numbers = facts.get("numbers", {"verify": "each", "not_checked": []})
    for reason in numbers["not_checked"]:
        say(f"note: {reason}")
    _show_quantization(facts.get("quantization"))
    if as_json:
        print_json({"fusion": fusion, "stages": facts["stages"], "numbers": numbers})
    check_requirements(wanted, fusion, subject)


def _of_bundle(path: Path) -> dict[str, Any]:
    from ...engines.bundle import Bundle
    from ..report import read_report

    return read_report(Bundle.open(path))


def _of_file(path: Path, verify: str, threads: int) -> dict[str, Any]:
    require(REWRITING, "explaining a graph")
    from ...graph.model import Graph
    from ...passes.presets import CANONICAL
    from ..checks.fusion import count_fusions
    from ..checks.verified import parse_verify, run_passes
    from ..report import stage_facts

    policy, original = parse_verify(verify), Graph.load(path)
    done = run_passes(CANONICAL, original, verify=policy, threads=threads)
    return {
        "fusion": {k: count.facts() for k, count in count_fusions(done.graph, original).items()},
        "stages": [stage_facts(record) for record in done.graph.history],
        "numbers": {
            "verify": policy,
            "not_checked": [done.not_checked] if done.not_checked else [],
        },
    }


def _refusals(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(rule, node, reason) of what passes declined, of what none saw, and of roll-backs."""
    stages: Sequence[Mapping[str, Any]] = facts["stages"]
    sources = [*stages, *facts["fusion"].values()]
    rows = [
        (entry["rule"], entry["node"] or "the graph", entry["reason"])
        for source in sources
        for entry in source["refusals"]
        if not entry["reason"].startswith("rolled back: ")
    ]
    rows += [
        (stage["name"], "the graph", f"rolled back: {stage['rolled_back']}")
        for stage in stages
        if stage["rolled_back"] is not None
    ]
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
