"""``fuselage cache``: what is kept between builds, why a stage ran again, and making room."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ...engines.manifest import MANIFEST
from ...errors import BuildError
from .console import print_json, print_table, say
from .options import Json

cache = typer.Typer(no_args_is_help=True, help="Products of stages that are kept between builds.")

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([mhdw])")


@cache.command("ls")
def ls(as_json: Json = False) -> None:
    """List what is kept: stage, model, size, age, and when it was last used."""
    from ..cache.folder import cache_limit
    from ..cache.listing import listing

    root = _root()
    rows = listing(root)
    now = time.time()
    print_table(
        str(root),
        ("stage", "target", "model", "MB", "made", "used", "key"),
        [
            (
                row.stage,
                row.target or None,
                row.model,
                round(row.bytes / 1e6, 1),
                _ago(now - row.created),
                _ago(now - row.used),
                row.key[:12],
            )
            for row in rows
        ],
        cut=("target", "model", "key"),
    )
    held, limit = sum(row.bytes for row in rows), cache_limit()
    say(f"{len(rows)} products, {held / 1e9:.2f} of {limit / 1e9:g} GB")
    if as_json:
        entries = [vars(row) for row in rows]
        print_json({"folder": str(root), "bytes": held, "limit_bytes": limit, "entries": entries})


@cache.command("why")
def why(
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE|MODEL...", help="Folder of a bundle, or a model's name."),
    ],
    as_json: Json = False,
) -> None:
    """Say which key made each stage run again: at the last build of a bundle, or of a model."""
    found = {subject: _reasons(subject) for subject in subjects}
    for subject, uses in found.items():
        rows = [(use["stage"], use["target"], _said(use)) for use in uses]
        print_table(subject, ("stage", "target", "why"), rows)
    if as_json:
        print_json({"subjects": found})


@cache.command("prune")
def prune(
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep this much, such as 5GB.")
    ] = None,
    older: Annotated[
        str | None, typer.Option(metavar="AGE", help="Remove what was not used for 30d, 12h, ...")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of it.")] = False,
    as_json: Json = False,
) -> None:
    """Make room: least recently used first. Builds under way are not disturbed."""
    from ..cache.eviction import remove_unused, shrink, sweep_dead
    from ..cache.folder import cache_limit, parse_size

    seconds = None if older is None else _parse_age(older)
    limit = cache_limit() if size is None else parse_size(size, "--size")
    root = _root()
    sweep_dead(root)
    removed = [] if seconds is None else remove_unused(root, seconds)
    if size is not None or everything or older is None:
        removed += shrink(root, 0 if everything else limit)
    freed = sum(item.bytes for item in removed)
    say(f"{root}: {len(removed)} products removed, {freed / 1e6:,.1f} MB free again")
    if as_json:
        print_json({"folder": str(root), "removed": len(removed), "bytes": freed})


def _root() -> Path:
    from ..cache.folder import FOLDER, cache_folder

    root = cache_folder()
    if root is None:
        raise BuildError(f"the cache has no folder: there is no home; set {FOLDER}")
    return root


def _reasons(subject: str) -> list[dict[str, Any]]:
    from ..cache.listing import last_changes

    if not (Path(subject) / MANIFEST).is_file():
        uses = last_changes(_root(), _id_of(subject))
        if not uses:
            raise BuildError(
                f"{subject!r}: expected the folder of a bundle, or a model of which the cache has "
                "something; see fuselage cache ls"
            )
        return uses
    from ...engines.bundle import Bundle
    from ..report import read_report

    return list(read_report(Bundle.open(subject)).get("cache", ()))


def _id_of(subject: str) -> str:
    """The id that products of a model are kept under."""
    from ..models.aliases import ALIASES

    if subject in ALIASES:
        return ALIASES[subject].hub_id
    folder = Path(subject).expanduser()
    return folder.resolve().name if folder.is_dir() else subject


def _said(use: dict[str, Any]) -> str:
    if use["reused"]:
        return "from the cache"
    return "; ".join(use["changed"]) or "made: nothing of the kind was in the cache"


def _parse_age(text: str) -> float:
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise BuildError(f"--older {text!r}: expected an age such as 30d, 12h, 2w or 45m")
    return float(found[1]) * _SECONDS[found[2]]


def _ago(seconds: float) -> str:
    for unit in ("w", "d", "h", "m"):
        if seconds >= _SECONDS[unit]:
            return f"{seconds / _SECONDS[unit]:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
