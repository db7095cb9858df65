"""``fuselage report``: one HTML file that says what a bundle is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import print_json, say
from .options import Json


def report(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE2]", help="A second one, to stand beside the first."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where to write it.")] = Path(
        "report.html"
    ),
    comparison: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `fuselage compare --out` wrote.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `fuselage evaluate --out` wrote.")
    ] = None,
    benchmark: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `fuselage bench --out` wrote.")
    ] = None,
    cost_model: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `fuselage inspect --costs --out` wrote."),
    ] = None,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Run nothing to fill in what was not given.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Write one HTML file: the verdict, how it was reached, and what was not checked.

    It needs no network, and prints. Documents of other verbs go in where they are given.
    """
    from ...proof.reporting.make import ReportRequest, make_report

    request = ReportRequest(
        bundles=(bundle,) if other is None else (bundle, other),
        out=out,
        documents={
            "comparison": comparison,
            "evaluation": evaluation,
            "benchmark": benchmark,
            "cost-model": cost_model,
        },
        run=not no_run,
    )
    made = make_report(request, say)
    say(f"written to {out}: {made.bytes:,} bytes")
    if show:
        typer.launch(out.resolve().as_uri())
    if as_json:
        print_json(made.data)
