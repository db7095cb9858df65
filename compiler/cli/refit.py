"""``fuselage refit``: the same architecture with other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Watch, print_json, print_table, say
from .options import Json, Quiet, Threads


def refit(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.")],
    weights: Annotated[
        Path,
        typer.Option(
            metavar="FILE|FOLDER", help="A .safetensors file, or the folder of a fine-tuned model."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new bundle. Default: the bundle itself.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable. Default: all that the bundle has; the others go."),
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Build TensorRT plans again that take no other weights."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="The model the bundle was built from, for a FILE. Default: by its id."),
    ] = None,
    threads: Threads = 0,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither use nor fill the cache of stages.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a bundle of the same architecture with other weights.

    The new model goes through export and passes like any other and is held to the old graph, task
    and tokenizer; TensorRT plans built with --refittable take its weights without being compiled
    again. Every engine has to answer like the new model; else the old bundle, or none, stays.
    """
    from ..rebuilding.refit import RefitWish, refit

    watch = Watch(quiet=quiet)
    wish = RefitWish(
        bundle=bundle,
        weights=weights,
        out=out,
        targets=tuple(target or ()),
        rebuild=rebuild,
        model=model,
        threads=threads,
        use_cache=not no_cache,
    )
    try:
        done = refit(wish, watch)
    finally:
        watch.close()
    for name in done.left_out:
        say(f"note: {name} is not in the new bundle")
    verdicts = done.report["verification"]["targets"]
    if not quiet and not as_json:
        rows = [
            (
                verdict["target"],
                verdict["precision"],
                done.how[verdict["target"]],
                f"{verdict['cosine_min']:.6f}",
                verdict["subject"],
            )
            for verdict in verdicts
        ]
        columns = ("engine", "precision", "how", "least cosine", "proved with")
        print_table(f"new weights in {done.bundle.root}", columns, rows)
    if as_json:
        print_json({"bundle": str(done.bundle.root), "how": dict(done.how), "proved": verdicts})
