"""What an interrupted run leaves beside its partial file, so that the next one can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import TextError

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Journal:
    """How far a run came.

    Attributes:
        setting: everything the answers depend on but the texts, by name.
        rows: texts answered.
        digest: of those texts and their kept columns, see `chunks`.
        size: bytes of the partial file that hold their answers.
    """

    setting: Mapping[str, Any]
    rows: int = 0
    digest: str = ""
    size: int = 0

    def write(self, path: Path) -> None:
        """Replace the journal at once; it is on the disk when this returns."""
        fresh = path.with_name(f"{path.name}.new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"schema": SCHEMA} | asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(path.parent)

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal.

        Raises:
            TextError: when it is none.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            kinds = {item.name: type(getattr(_EMPTY, item.name)) for item in fields(cls)}
            is_good = values.pop("schema") == SCHEMA and set(values) == set(kinds)
            is_good &= all(type(values[name]) is kind for name, kind in kinds.items())
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            is_good = False
        if not is_good:
            raise TextError(
                f"{path}: expected the journal of an interrupted run, schema {SCHEMA}, got "
                "something else; give --restart to begin anew"
            )
        return cls(**values)

    def check(self, setting: Mapping[str, Any], path: Path) -> None:
        """Refuse to go on under another setting.

        Raises:
            TextError: naming what differs.
        """
        for name in (*self.setting, *setting):
            before, now = self.setting.get(name), setting.get(name)
            if before != now:
                raise TextError(
                    f"{path}: {self.rows:,} texts were answered with {name} {_shown(before)}, now "
                    f"it is {_shown(now)}; go on as before, or give --restart to begin anew"
                )


_EMPTY = Journal(setting={})


def sync_folder(folder: Path) -> None:
    """Put new names in a folder on the disk."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] + "..." if len(text) == 64 and text.isalnum() else text
