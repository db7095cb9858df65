"""``fuselage lint``: the traps of TensorRT in an ONNX file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ...errors import BuildError
from ..packages import REWRITING, require
from .console import print_json, print_table, say
from .options import Json


def lint(
    source: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The graph to look at.")],
    target: Annotated[str, typer.Option(help="tensorrt-rtx or tensorrt.")] = "tensorrt-rtx",
    precision: Annotated[
        str | None,
        typer.Option(help="What float32 is going to be: fp32, fp16, bf16 or int8. Default: as is."),
    ] = None,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="SM80, SM89, ... Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find what TensorRT refuses or reads otherwise than ONNX says.

    Exits with 1 when one of the findings is an error.
    """
    require(REWRITING, "inspecting a graph")
    from ...graph.model import Graph
    from ...passes.lint.tensorrt import TARGETS
    from ...passes.lint.tensorrt import lint as lint_graph
    from ..precision import ASKED

    known = next((name for name in TARGETS if name == target), None)
    if known is None:
        raise BuildError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
    lowered = next((name for name in ASKED if name == precision and name != "auto"), None)
    if precision is not None and lowered is None:
        raise BuildError(f"precision {precision!r}: expected one of {', '.join(ASKED[1:])}")
    for name in compute_capability or ():
        if re.fullmatch(r"SM\d{2,3}[af]?", name) is None:
            raise BuildError(f"compute capability {name!r}: expected SM and a number, as SM89")
    model = Graph.load(source).model
    findings = lint_graph(model, known, lowered, tuple(compute_capability or ()) or None)
    counts = Counter(finding.severity for finding in findings)
    if findings:
        rows = [(f.rule, f.severity, f.node, f.message) for f in findings]
        print_table(f"{source} for {target}", ("rule", "severity", "node", "what to do"), rows)
    say(f"{source} for {target}: errors {counts['error']}, warnings {counts['warning']}")
    if as_json:
        print_json(
            {
                "target": target,
                "errors": counts["error"],
                "warnings": counts["warning"],
                "findings": [asdict(finding) for finding in findings],
            }
        )
    if counts["error"]:
        raise typer.Exit(1)
