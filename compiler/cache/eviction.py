"""What goes when the cache outgrows its limit: least recently used first, and what died."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...engines.folder_swap import WorkFolder, sweep
from .entry import ENTRY
from .folder import FILES
from .lock import sweep_lock


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that can go: the folder of an entry, or a file of statistics.

    Attributes:
        path: of it.
        bytes: on disk.
        used: seconds since the epoch.
    """

    path: Path
    bytes: int
    used: float

    def remove(self) -> None:
        """Take it away; one that another process took away first is fine."""
        with contextlib.suppress(OSError):
            if self.path.is_file():
                self.path.unlink()
                return
            with contextlib.closing(WorkFolder(self.path)) as work:
                self.path.rename(work.path / "old")


def items(root: Path) -> list[Item]:
    """Everything in a cache, most recently used first."""
    found = [item for folder in (root / "stages").glob("*/[!.]*") for item in _item(folder)]
    for path in (path for name in FILES for path in (root / name).glob("[!.]*")):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append(Item(path=path, bytes=status.st_size, used=status.st_mtime))
    return sorted(found, key=lambda item: (-item.used, str(item.path)))


def shrink(root: Path, limit_bytes: int, *, newest: Path | None = None) -> list[Item]:
    """Remove what was not used for longest until the rest is within the limit.

    Args:
        root: the cache.
        limit_bytes: of everything together.
        newest: stays, also when the clock says that others were used later.

    Returns:
        What was removed.
    """
    total, removed = 0, []
    for item in sorted(items(root), key=lambda item: item.path != newest):
        total += item.bytes
        if total > limit_bytes and item.path != newest:
            item.remove()
            removed.append(item)
            total -= item.bytes
    return removed


def remove_unused(root: Path, seconds: float) -> list[Item]:
    """Remove what was not used for so long; returns it."""
    before = time.time() - seconds
    removed = [item for item in items(root) if item.used <= before]
    for item in removed:
        item.remove()
    return removed


def sweep_dead(root: Path) -> None:
    """Clear what processes that died left behind."""
    for folder in (root / "stages").glob("*/.*.*-*"):
        name, _, _ = folder.name[1:].rpartition(".")
        with contextlib.suppress(OSError):
            sweep(folder.with_name(name))
    for path in (root / "locks").glob("*.lock"):
        sweep_lock(path)


def _item(folder: Path) -> Iterator[Item]:
    try:
        used = (folder / ENTRY).stat().st_mtime
    except OSError:
        used = 0.0  # no entry: the first to go
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    yield Item(path=folder, bytes=size, used=used)
