"""``fuselage tune``: measure which forms of operators are fastest on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BuildError
from ..packages import REWRITING, require
from .console import Watch, print_json, print_table, say
from .options import Json, Quiet, Threads


def tune(
    out: Annotated[
        Path, typer.Argument(metavar="OUT.json", help="The cost table to write.")
    ] = Path("costs.json"),
    seconds: Annotated[float, typer.Option(min=0, help="For one choice at one shape.")] = 2.0,
    threads: Threads = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure the forms a lowering for ort-cpu may choose from, and write the table.

    `fuselage build --costs OUT.json` and `fuselage optimize --costs OUT.json` use it.
    """
    require(REWRITING, "measuring the forms")
    if not out.parent.is_dir():
        raise BuildError(f"{out}: the folder {out.parent} does not exist; create it first")
    from ...engines import host
    from ...passes.costs import CHOICES
    from ..tuning import tune as measure

    watch = Watch(quiet=quiet)

    def show(what: str) -> None:
        watch.close()
        watch.started(what)

    try:
        table = measure(threads=threads, seconds=seconds, on_choice=show)
    finally:
        watch.close()
    table.save(out)
    rows = [
        (
            choice,
            form,
            "1.00" if ratio is None else f"{ratio:.2f}",
            "chosen" if table.best(choice) == form else "",
        )
        for choice, forms in CHOICES.items()
        for form in forms
        for ratio in [table.ratio(choice, form)]
    ]
    if not quiet:
        print_table(f"{table.machine}, {table.runtime}", ("choice", "form", "time", ""), rows)
    load = host.load_average()
    shown = "unknown" if load is None else f"{load:.1f}"
    say(f"{len(table.measurements)} measurements at load {shown}, written to {out}")
    if as_json:
        print_json(table.facts())
