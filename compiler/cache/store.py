"""The cache on disk: find, keep and remove products of stages; safe for many processes at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engines.folder_swap import WorkFolder, replace_folder
from ...engines.manifest import FileEntry
from ...errors import BundleError
from .entry import DamagedEntryError, Entry, write_entry
from .eviction import shrink, sweep_dead
from .folder import cache_folder, cache_limit
from .key import StageKey
from .lock import key_lock

STAGES, LOCKS = "stages", "locks"

_TAG = "CACHEDIR.TAG"
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n"
"""Backup programs leave such folders out. Source: https://bford.info/cachedir/."""


@dataclass
class Store:
    """Products in a folder that may be shared by processes and be deleted at any time.

    Everything in it can be made again, so nothing that is wrong with it fails a build: it is a
    note, and the stage runs.

    Attributes:
        root: made when something is first kept.
        limit_bytes: what was not used for longest goes beyond it.
        note: told what was damaged, what could not be kept and whom it waits for.
    """

    root: Path
    limit_bytes: int
    note: Callable[[str], None] = field(default=lambda _line: None, repr=False)
    _failed: bool = field(default=False, init=False, repr=False)

    @classmethod
    def default(cls, note: Callable[[str], None] = lambda _line: None) -> Store | None:
        """The user's store; None where there is no place for it, or its limit is 0.

        Raises:
            BuildError: when the limit in the environment is no size.
        """
        root, limit = cache_folder(), cache_limit()
        return cls(root, limit, note) if root is not None and limit else None

    def locked(self, key: StageKey) -> AbstractContextManager[None]:
        """Keep everybody else from making the same product meanwhile."""
        with contextlib.suppress(OSError):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.root / LOCKS / f"{key.stage}-{key.digest}.lock"
        return key_lock(
            path, lambda: self.note(f"{key.title}: another build makes the same; waiting for it")
        )

    def find(self, key: StageKey) -> Entry | None:
        """The sound entry of a key, which counts as used now; None when there is none."""
        try:
            entry = Entry.read(self._place(key))
            if entry.key.digest != key.digest:
                raise DamagedEntryError(f"{entry.folder}: holds the product of another key")
        except FileNotFoundError:
            return None
        except DamagedEntryError as error:
            self.discard(key, error)
            return None
        entry.touch()
        return entry

    def keep(
        self, key: StageKey, facts: Mapping[str, Any], source: Path, files: Mapping[str, FileEntry]
    ) -> None:
        """Keep a product, in place of an earlier one of the same key.

        Args:
            key: of the product.
            facts: JSON.
            source: folder of the product; it stays as it is.
            files: of the folder, from `hash_files`.
        """
        size = sum(file.bytes for file in files.values())
        if size > self.limit_bytes:
            self._fail(f"{key.title} has {size:,} bytes, the limit is {self.limit_bytes:,}")
            return
        place = self._place(key)
        try:
            self._prepare(place.parent)
            with contextlib.closing(WorkFolder(place)) as work:
                write_entry(work.path, key, facts, source, files)
                replace_folder(work.path, place)
            shrink(self.root, self.limit_bytes, newest=place)
        except (OSError, BundleError, DamagedEntryError) as error:
            self._fail(str(error))

    def discard(self, key: StageKey, error: DamagedEntryError) -> None:
        """Remove an entry that is not sound, and say so."""
        try:
            remove(self._place(key))
            done = "it is removed, "
        except OSError:
            done = ""
        self.note(f"cache: {error}; {done}the stage runs again")

    def entries(self, stage: str) -> Iterator[Entry]:
        """The entries of a stage that can be read."""
        for folder in sorted((self.root / STAGES / stage).glob("[!.]*")):
            with contextlib.suppress(FileNotFoundError, DamagedEntryError):
                yield Entry.read(folder)

    def _place(self, key: StageKey) -> Path:
        return self.root / STAGES / key.stage / key.digest

    def _prepare(self, folder: Path) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.root / _TAG).exists():
            (self.root / _TAG).write_text(_SIGNATURE, encoding="ascii")
            return
        sweep_dead(self.root)

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self.note(f"{self.root}: products cannot be kept for later builds ({reason})")
        self._failed = True


def remove(folder: Path) -> None:
    """Take an entry away in one step; a process that dies here leaves nothing half removed.

    Raises:
        OSError: when the file system refuses.
    """
    with contextlib.closing(WorkFolder(folder)) as work, contextlib.suppress(FileNotFoundError):
        folder.rename(work.path / "old")
