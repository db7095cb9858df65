"""Rows of an evaluation file with all their columns, before the model's task is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Self

from ...errors import CalibrationError
from ..text.sources import STANDARD_INPUT, data_files, source_name
from ..text.sources_arrow import Record, arrow_records, parquet_records
from ..text.sources_columns import csv_fields, json_values, tsv_fields
from ..text.sources_lines import decoded

FEWEST = 10
"""Below this number of examples a metric says nothing."""

NUMBER, TEXT, PAIR = "number", "text", "pair"
"""Columns of a table without a header, as in STS-B: one number beside one or two texts."""

ROLES = (
    "text", "pair", "score", "label", "question", "context", "answers", "tokens", "tags",
    "query", "positive", "negative",
)  # fmt: skip
"""What a column can be; the user may say which one is."""


@dataclass(frozen=True, kw_only=True)
class EvaluationFile:
    """An evaluation file that was read.

    Attributes:
        records: where each row stands (file and line), and its columns by name.
        source: name of the file, without its folder.
        columns: role to name of a column, as the user says; the rest is found by usual names.
    """

    records: tuple[Record, ...] = field(repr=False)
    source: str
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path, columns: Mapping[str, str] | None = None) -> Self:
        """Read a file, a folder with data files, or standard input.

        Args:
            path: .jsonl, .ndjson or .json (one object a line), .csv or .tsv (with a header, or one
                number beside one or two texts), .parquet or .arrow; ``-`` for standard input with
                one object a line.
            columns: role (one of `ROLES`) to the name of a column.

        Raises:
            CalibrationError: naming file, line and what was expected: a file that is missing,
                malformed or has fewer than `FEWEST` rows, an unknown role.
            MissingPackageError: for .parquet and .arrow without pyarrow.
        """
        columns = dict(columns or {})
        unknown = next((role for role in columns if role not in ROLES), None)
        if unknown is not None:
            raise CalibrationError(
                f"evaluation column {unknown}={columns[unknown]}: expected one of "
                f"{', '.join(ROLES)} before the equals sign"
            )
        if str(path) == STANDARD_INPUT:
            records = list(_json(Path(source_name(path)), sys.stdin.buffer))
        else:
            records = [record for file in data_files(Path(path)) for record in _records(file)]
        if len(records) < FEWEST:
            where = source_name(path) if str(path) == STANDARD_INPUT else path
            raise CalibrationError(
                f"{where}: expected at least {FEWEST} examples to evaluate with, got "
                f"{len(records)}; some hundred are needed to tell small drops"
            )
        return cls(records=tuple(records), source=source_name(path), columns=columns)

    @property
    def digest(self) -> str:
        """sha256 of all rows in their order, and of what the user says about columns."""
        sha = sha256(json.dumps(self.columns, sort_keys=True).encode())
        for _, fields in self.records:
            sha.update(json.dumps(fields, sort_keys=True, default=repr).encode() + b"\n")
        return sha.hexdigest()


def parse_columns(items: list[str]) -> dict[str, str]:
    """``score=gold`` to role and column.

    Raises:
        CalibrationError: when an item is malformed or a role is given twice.
    """
    columns: dict[str, str] = {}
    for item in items:
        role, equals, name = item.partition("=")
        if not equals or not name or role in columns:
            what = "is given twice" if role in columns else "expected ROLE=COLUMN, as score=gold"
            raise CalibrationError(f"evaluation column {item!r}: {what}")
        columns[role] = name
    return columns


def _records(path: Path) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix in _BINARY:
        yield from _BINARY[suffix](path, lambda names: names)
        return
    read = _TEXTUAL.get(suffix)
    if read is None:
        raise CalibrationError(
            f"{path}: expected a file with columns that ends in "
            f"{', '.join([*_TEXTUAL, *_BINARY])}, got {suffix or 'no ending'}"
        )
    try:
        file = path.open("rb")
    except OSError as error:
        raise CalibrationError(f"{path}: the file cannot be read: {error.strerror}") from error
    with file:
        yield from read(path, file)


def _json(path: Path, file: BinaryIO) -> Iterator[Record]:
    for place, value in json_values(path, decoded(path, file)):
        if value == "":
            continue
        if not isinstance(value, dict):
            raise CalibrationError(
                f"{place}: expected an object with columns, got {type(value).__name__}"
            )
        yield place, value


def _table(read: Callable[..., Iterator[tuple[str, list[str]]]]) -> Callable[..., Iterator[Record]]:
    def records(path: Path, file: BinaryIO) -> Iterator[Record]:
        names: list[str] = []
        for place, fields in read(path, decoded(path, file)):
            if not fields:
                continue
            if names:
                yield place, dict(zip(names, fields, strict=True))
                continue
            names = _header(place, fields)
            if names is not fields:
                yield place, dict(zip(names, fields, strict=True))

    return records


def _header(place: str, fields: list[str]) -> list[str]:
    """The fields themselves, or names for those of a table that begins with data."""
    numbers = [_is_number(text) for text in fields]
    if not any(numbers):
        return fields
    texts = iter((TEXT, PAIR))
    if numbers.count(True) != 1 or len(fields) not in (2, 3):
        raise CalibrationError(
            f"{place}: expected a header, or one number beside one or two texts, got "
            f"{len(fields)} fields of which {numbers.count(True)} are numbers; add a header"
        )
    return [NUMBER if is_number else next(texts) for is_number in numbers]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_TEXTUAL: Mapping[str, Callable[[Path, BinaryIO], Iterator[Record]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _table(csv_fields),
    ".tsv": _table(tsv_fields),
}
_BINARY: Mapping[str, Callable[[Path, Any], Iterator[Record]]] = {
    ".parquet": parquet_records,
    ".arrow": arrow_records,
}
