"""``fuselage verify``: is a bundle what it was, and would it be built so again?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import BundleError, VerificationError
from .console import Watch, print_json, say
from .inputs import read_evaluation, read_texts
from .options import (
    Costs,
    Evaluation,
    EvaluationColumns,
    Json,
    Quiet,
    TextColumns,
    TextLimit,
    Texts,
)


def verify(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Build its recipe again, elsewhere, and compare the bytes."),
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="With --rebuild: where the model is, if it has moved.")
    ] = None,
    text: Texts = None,
    text_column: TextColumns = None,
    text_limit: TextLimit = None,
    evaluation: Evaluation = None,
    evaluation_column: EvaluationColumns = None,
    costs: Costs = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every digest of a bundle; exits with 1 and names the file when one is wrong."""
    from ...engines.bundle import Bundle

    bundle = Bundle.open(path, full=True)
    files = bundle.manifest.files
    size = sum(file.bytes for file in files.values())
    say(f"{path}: {len(files)} files, {size / 1e6:,.1f} MB, every digest is right")
    facts: dict[str, object] = {"bundle": str(path), "files": len(files), "bytes": size}
    if rebuild:
        from ..verification import Inputs
        from ..verification import rebuild as build_again

        if "rebuilt" in bundle.manifest.recipe:
            raise BundleError(f"{path}: was rebuilt from its graph; it has no recipe to follow")
        inputs = Inputs(
            model=model,
            texts=read_texts(text, text_column, text_limit),
            evaluation=read_evaluation(evaluation, evaluation_column),
            costs=costs,
        )
        watch = Watch(quiet=quiet)
        try:
            found = build_again(bundle, inputs, watch)
        finally:
            watch.close()
        for line in found.changed:
            say(f"the recipe is not the same any more: {line}")
        if found.different:
            raise VerificationError(
                f"{path}: built again, {len(found.different)} of "
                f"{len(found.different) + len(found.equal)} files have other bytes: "
                f"{', '.join(found.different)}"
            )
        say(f"built again, {len(found.equal)} files have the same bytes ({_list(found.timed)})")
        facts |= {"rebuilt": vars(found)}
    if as_json:
        print_json(facts)


def _list(timed: tuple[str, ...]) -> str:
    return f"{', '.join(timed)} hold times and were not compared" if timed else "all of them"
