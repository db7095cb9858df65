"""Statistics of runs, finished or not, in a folder: one file a run, numbers and digests only."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .profile import TensorProfile
from .profile_arrays import ARRAYS, arrays_of, profile_of

SCHEMA = 1
"""Of the files, and of how statistics are taken: raise it when numbers would come out otherwise."""

_ABANDONED_SECONDS = 3600.0
"""After which a file that was never finished belongs to a process that died."""

_KEY = re.compile(r"[0-9a-f]{64}")

Profiles = dict[str, TensorProfile]
"""What each tensor held, by its name."""


@dataclass(kw_only=True)
class Collected:
    """Statistics as far as they have come.

    Attributes:
        parts: of each part of the texts.
        done: batches they are of, over all parts.
    """

    parts: tuple[Profiles, ...]
    done: int = 0


@dataclass(frozen=True)
class ProfileStore:
    """A folder of statistics that may be shared by processes and be deleted at any time.

    A file is written beside its place and moved there, so a process that is killed leaves the old
    one. Files that are used are touched; how many stay is up to `make_room`.

    Attributes:
        folder: made when it is first written to.
        make_room: called with the file that was written last, which is to stay.
        note: told what was reused, what could not be read and what could not be written.
    """

    folder: Path
    make_room: Callable[[Path], object] = field(default=lambda _newest: None, repr=False)
    note: Callable[[str], None] = field(default=lambda _line: None, repr=False)

    def load(self, key: str, names: Sequence[str], batches: Sequence[int]) -> Collected | None:
        """What was saved under a key; None when there is nothing, or nothing sound.

        Args:
            key: sha256 in hexadecimal of everything the statistics depend on.
            names: tensors there must be.
            batches: how many batches each part has.
        """
        path = self._path(key)
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                found = _read(file, key, names, batches)
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # what is no sound archive raises many unrelated types
            self.note(
                f"{path}: ignored, expected statistics of calibration, got a damaged or foreign "
                f"file ({type(error).__name__}: {error}); the text is run again"
            )
            return None
        return found

    def save(self, key: str, collected: Collected) -> bool:
        """Keep statistics, in place of earlier ones of the same key.

        Returns:
            False when they could not be written, which is noted and costs nothing but time.
        """
        path = self._path(key)
        part = path.with_name(f".{key}.{os.getpid()}.part")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("wb") as file:
                np.savez(file, **_arrays(key, collected))
            os.replace(part, path)
            self._sweep()
            self.make_room(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            self.note(
                f"{self.folder}: statistics of calibration cannot be kept "
                f"({error.strerror or error}); a run that is interrupted starts again"
            )
            return False
        return True

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"key {key!r}: expected sha256 in hexadecimal")
        return self.folder / f"{key}.npz"

    def _sweep(self) -> None:
        """Remove what died."""
        for part in self.folder.glob(".*.part"):
            with suppress(OSError):  # another process removed it
                if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()


def _arrays(key: str, collected: Collected) -> dict[str, Any]:
    head = {
        "schema": SCHEMA,
        "key": key,
        "done": collected.done,
        "parts": [list(part) for part in collected.parts],
    }
    arrays: dict[str, Any] = {"head": np.array(json.dumps(head))}
    for number, part in enumerate(collected.parts):
        for place, profile in enumerate(part.values()):
            entries = arrays_of(profile).items()
            arrays |= {f"{number}.{place}.{name}": array for name, array in entries}
    return arrays


def _read(file: Any, key: str, names: Sequence[str], batches: Sequence[int]) -> Collected:
    head = json.loads(str(file["head"]))
    done, parts = int(head["done"]), head["parts"]
    if (head["schema"], head["key"]) != (SCHEMA, key):
        raise ValueError(f"schema {head['schema']!r} of {str(head['key'])[:12]}")
    begins = [sum(batches[:number]) for number in range(len(batches))]
    if parts != [list(names) if begin < done else [] for begin in begins]:
        raise ValueError("other tensors than the graph has")
    if not 0 < done <= sum(batches):
        raise ValueError(f"{done} of {sum(batches)} batches")
    found = tuple(
        {
            name: profile_of({field: file[f"{number}.{place}.{field}"] for field in ARRAYS})
            for place, name in enumerate(part)
        }
        for number, part in enumerate(parts)
    )
    return Collected(parts=found, done=done)
