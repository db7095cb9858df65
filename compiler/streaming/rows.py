"""Texts of a file or of standard input, one at a time, and other columns that stand beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...calibration.text.sources import STANDARD_INPUT
from ...calibration.text.sources_arrow import arrow_records, parquet_records
from ...calibration.text.sources_columns import choose_columns, csv_fields, json_values, tsv_fields
from ...calibration.text.sources_lines import decoded
from ...engines.text.texts import Text, checked
from ...errors import TextError

_TABLES = {".csv": csv_fields, ".tsv": tsv_fields}
_JSON = (".jsonl", ".ndjson")
_BINARY = {".parquet": parquet_records, ".arrow": arrow_records}
FORMATS = (*_JSON, *_TABLES, *_BINARY)
"""Endings of what has columns; every other file is one text a line."""


@dataclass(frozen=True)
class TextRow:
    """One text.

    Attributes:
        place: where it stands, for errors.
        text: itself, or a pair.
        kept: what the kept columns hold.
    """

    place: str
    text: Text
    kept: tuple[Any, ...] = ()


class TextFile:
    """Reads a file once, from its beginning to its end, in memory that does not grow with it.

    Attributes:
        path: as given.
        name: of the source, for people.
        kept: columns that `TextRow.kept` holds.
        blanks: rows without text that were left out between those read so far.

    Args:
        path: ``-`` for standard input. The ending tells the format: .jsonl and .ndjson (one value a
            line), .csv and .tsv (with a header), .parquet, .arrow; anything else is plain text, one
            text a line. Standard input is plain text, or JSON lines when columns are named.
        columns: the column of the text, or two for pairs; when empty ``text`` or the only one.
        kept: other columns to read.
    """

    def __init__(self, path: Path, columns: Sequence[str] = (), kept: Sequence[str] = ()) -> None:
        if len(columns) > 2:
            raise TextError(f"--text-column: expected one, or two for pairs, got {len(columns)}")
        self.path = path
        self.kept = tuple(kept)
        self.blanks = 0
        self._columns = tuple(columns)
        self._file: BinaryIO | None = None
        is_stream = str(path) == STANDARD_INPUT
        self.name = Path("standard input") if is_stream else path
        suffix = (".jsonl" if columns or kept else "") if is_stream else path.suffix.lower()
        self._suffix = suffix if suffix in FORMATS else ""
        if (columns or kept) and not self._suffix:
            raise TextError(
                f"{path}: plain text has no column {(*columns, *kept)[0]!r}; expected a file that "
                f"ends in {', '.join(FORMATS)}"
            )

    @property
    def fraction(self) -> float | None:
        """How much of the file was read; None where nobody knows."""
        if self._file is None or self._file.closed or str(self.path) == STANDARD_INPUT:
            return None
        return self._file.tell() / max(1, self.path.stat().st_size)

    def rows(self) -> Iterator[TextRow]:
        """Rows with text, in order.

        Raises:
            FuselageError: naming file, line, and what to do: a source that is missing, not UTF-8,
                malformed, without the column, or a row that holds no text.
        """
        blanks = 0
        for place, item, kept in self._items():
            if _is_blank(item):
                blanks += 1
                continue
            self.blanks += blanks
            blanks = 0
            yield TextRow(place, _text(item, place), kept)

    def _items(self) -> Iterator[tuple[str, object, tuple[Any, ...]]]:
        chosen: tuple[str, ...] = ()
        for place, value in self._values():
            if not isinstance(value, Mapping):
                if (self._columns or self.kept) and value != "":
                    wanted = (*self._columns, *self.kept)[0]
                    raise TextError(
                        f"{place}: expected an object with {wanted!r}, got {type(value).__name__}"
                    )
                yield place, value, (None,) * len(self.kept)
                continue
            if not chosen or not value.keys() >= set(chosen):
                chosen = choose_columns(chosen or self._columns, list(value), place)
            texts = ["" if value[name] is None else value[name] for name in chosen]
            kept = tuple(value.get(name) for name in self.kept)
            yield place, texts[0] if len(texts) == 1 else tuple(texts), kept

    def _values(self) -> Iterator[tuple[str, object]]:
        if self._suffix in _BINARY:
            yield from _BINARY[self._suffix](self.path, self._wanted)
            return
        is_stream = str(self.path) == STANDARD_INPUT
        with nullcontext(sys.stdin.buffer) if is_stream else self.path.open("rb") as file:
            self._file = file
            lines = decoded(self.name, file)
            if self._suffix in _JSON:
                yield from json_values(self.name, lines)
            elif self._suffix:
                yield from self._table(lines)
            else:
                for number, line in enumerate(lines, start=1):
                    # only a line feed ends a line, with or without a carriage return before it
                    yield f"{self.name}: line {number}", line.removesuffix("\n").removesuffix("\r")

    def _table(self, lines: Iterator[str]) -> Iterator[tuple[str, object]]:
        rows = _TABLES[self._suffix](self.name, lines)
        _, names = next(rows, ("", []))
        if names:
            self._wanted(names)
        for place, fields in rows:
            yield place, dict(zip(names, fields, strict=True)) if fields else ""

    def _wanted(self, names: Sequence[str]) -> Sequence[str]:
        chosen = choose_columns(self._columns, names, self.name)
        missing = [name for name in self.kept if name not in names]
        if missing:
            raise TextError(
                f"{self.name}: there is no column {missing[0]!r} to keep; its columns are "
                f"{', '.join(map(repr, names))}"
            )
        return tuple(dict.fromkeys((*chosen, *self.kept)))


def _is_blank(item: object) -> bool:
    if isinstance(item, str):
        return not item.strip()
    return isinstance(item, list | tuple) and any(part == "" for part in item)


def _text(item: object, place: str) -> Text:
    text: Any = tuple(item) if isinstance(item, list) else item
    if isinstance(text, tuple) and len(text) != 2:
        raise TextError(f"{place}: expected a text or a pair of texts, got a list of {len(text)}")
    try:
        checked([text])
    except TextError as error:
        raise TextError(f"{place}: {str(error).removeprefix('text 0: ')}") from error
    return text  # type: ignore[no-any-return]
