"""``fuselage rebuild``: engines for this machine from what is in a bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .console import Watch, print_json, print_table, say
from .options import Json, Quiet, Threads


def rebuild(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable. Default: those of the bundle that build here."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new bundle. Default: the bundle itself.")
    ] = None,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            help="Keep the TensorRT engines there are, for the GPUs they were built for.",
        ),
    ] = False,
    threads: Threads = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build engines for this machine from the graph and the ranges in a bundle.

    Needs neither PyTorch nor the model nor text. The rest of the bundle stays as it is; with an
    engine that does not answer like the graph, all of it does.
    """
    from ..rebuilding.rebuild import Wish, rebuild

    watch = Watch(quiet=quiet)
    wish = Wish(bundle=bundle, targets=tuple(target or ()), out=out, beside=beside, threads=threads)
    try:
        rebuilt = rebuild(wish, watch)
    finally:
        watch.close()
    for name, reason in rebuilt.kept.items():
        say(f"note: {name} stays as it is: {reason}")
    verdicts = [asdict(verdict) for verdict in rebuilt.verdicts.values()]
    if not quiet and not as_json:
        columns = ("engine", "precision", "proved with", "least cosine", "max |d|")
        rows = [
            (
                verdict["target"],
                verdict["precision"],
                verdict["subject"],
                f"{verdict['cosine_min']:.6f}",
                f"{verdict['max_abs']:.1e}",
            )
            for verdict in verdicts
        ]
        print_table(f"rebuilt in {rebuilt.bundle.root}", columns, rows)
    if as_json:
        print_json(
            {
                "bundle": str(rebuilt.bundle.root),
                "rebuilt": verdicts,
                "kept": dict(rebuilt.kept),
            }
        )
