"""Rows in chunks whose borders depend on the rows alone, and a digest of all rows so far.

A run that was interrupted goes on at a border, so it hands the engine the very batches that an
uninterrupted one does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from ...errors import TextError
from .rows import TextFile, TextRow

CHUNK_ROWS = 1024
"""Enough for batches without padding; what an interruption loses at most."""

CHUNK_CHARACTERS = 1 << 22
"""Bounds the memory of a chunk of very long texts."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Neighbouring rows.

    Attributes:
        rows: of this chunk.
        end: rows of the file up to its end.
        digest: sha256 of all of them, kept columns included.
    """

    rows: tuple[TextRow, ...]
    end: int
    digest: str

    @property
    def begin(self) -> int:
        """Rows of the file before it."""
        return self.end - len(self.rows)


def chunks(file: TextFile, done: int = 0, digest: str = "") -> Iterator[Chunk]:
    """Read a file in chunks.

    Args:
        file: is read once.
        done: rows that were answered before; they are read and left out.
        digest: of those rows.

    Raises:
        TextError: when the file does not begin with the rows that were answered.
    """
    seen, total = sha256(), 0
    rows: list[TextRow] = []
    size = 0
    for row in file.rows():
        seen.update(_canonical(row))
        total += 1
        if total <= done:
            if total == done and seen.hexdigest() != digest:
                raise _changed(file, done)
            continue
        rows.append(row)
        size += len(row.text) if isinstance(row.text, str) else sum(map(len, row.text))
        if len(rows) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield Chunk(rows=tuple(rows), end=total, digest=seen.hexdigest())
            rows, size = [], 0
    if total < done:
        raise _changed(file, done)
    if rows:
        yield Chunk(rows=tuple(rows), end=total, digest=seen.hexdigest())


def chunks_of(texts: Sequence[str]) -> Iterator[Chunk]:
    """One chunk of texts that come from no file."""
    rows = tuple(TextRow(f"text {index}", text) for index, text in enumerate(texts))
    yield Chunk(rows=rows, end=len(rows), digest="")


def _canonical(row: TextRow) -> bytes:
    return json.dumps([row.text, *row.kept], default=str).encode() + b"\n"


def _changed(file: TextFile, done: int) -> TextError:
    return TextError(
        f"{file.name}: its first {done:,} texts or their kept columns are no longer those that "
        "were answered before the interruption; give --restart to answer all of it anew"
    )
