"""What the cache holds, for people."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .changes import rebuilt_because
from .entry import DamagedEntryError, Entry
from .eviction import Item, items
from .folder import FILES


@dataclass(frozen=True, kw_only=True)
class Row:
    """One product.

    Attributes:
        stage: that made it; the folder of a single file; ``?`` when its entry cannot be read.
        target: of an engine, else empty.
        model: id.
        bytes: on disk.
        created: seconds since the epoch.
        used: likewise.
        key: digest.
    """

    stage: str
    target: str
    model: str
    bytes: int
    created: float
    used: float
    key: str


def listing(root: Path) -> list[Row]:
    """Everything in a cache, most recently used first."""
    return [_row(item) for item in items(root)]


def last_changes(root: Path, model: str) -> list[dict[str, Any]]:
    """What made each stage of a model run when it ran last.

    Args:
        root: of the cache.
        model: id.

    Returns:
        One entry a stage and target as in ``report.json``, in the order of the build.
    """
    entries = []
    for item in items(root):
        with contextlib.suppress(FileNotFoundError, DamagedEntryError):
            entries.append(Entry.read(item.path))
    entries = [entry for entry in entries if entry.key.model == model]
    entries.sort(key=lambda entry: entry.created)
    newest = {(entry.key.stage, entry.key.target): entry for entry in entries}
    return [
        {
            "stage": last.key.stage,
            "target": last.key.target or None,
            "key": last.key.digest,
            "reused": False,
            "changed": rebuilt_because(entries[: entries.index(last)], last.key),
        }
        for last in sorted(newest.values(), key=lambda entry: entry.created)
    ]


def _row(item: Item) -> Row:
    stage, target, model, created = "?", "", "", item.used
    if item.path.parent.name in FILES:
        stage = item.path.parent.name
    else:
        with contextlib.suppress(FileNotFoundError, DamagedEntryError):
            entry = Entry.read(item.path)
            stage, target, model = entry.key.stage, entry.key.target, entry.key.model
            created = entry.created
    return Row(
        stage=stage,
        target=target,
        model=model,
        bytes=item.bytes,
        created=created,
        used=item.used,
        key=item.path.stem,
    )
