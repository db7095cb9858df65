"""Rows of JSON lines and of tables with a header, cut down to the columns that were asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ...errors import CalibrationError

Row = tuple[str, object]
"""Where an item stands, and the item: a text, a pair or token ids, not yet checked."""

_USUAL = ("text", "input_ids")


def choose_columns(wanted: Sequence[str], names: Sequence[str], origin: object) -> tuple[str, ...]:
    """The columns to read.

    Args:
        wanted: by the user; when empty, the first of ``text`` and ``input_ids`` that is there, or
            the only column.
        names: the columns there are.
        origin: file, for errors.

    Raises:
        CalibrationError: when a column is missing or it is not clear which to take; it names the
            columns there are.
    """
    there = f"its columns are {', '.join(map(repr, names))}" if names else "it has no columns"
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CalibrationError(f"{origin}: there is no column {missing[0]!r}; {there}")
    repeated = [name for name in wanted or _USUAL if list(names).count(name) > 1]
    if repeated:
        raise CalibrationError(
            f"{origin}: there are {list(names).count(repeated[0])} columns {repeated[0]!r}; give "
            "each a name of its own"
        )
    if wanted:
        return tuple(wanted)
    usual = [name for name in _USUAL if name in names]
    if not usual and len(names) != 1:
        raise CalibrationError(
            f"{origin}: expected to be told which column holds the text; {there}; name one, or "
            "two for pairs, with --text-column"
        )
    return ((*usual, *names)[0],)


def item_of(row: Mapping[str, object], columns: Sequence[str]) -> object:
    """What the columns of one row hold; null is blank."""
    values = ["" if row[name] is None else row[name] for name in columns]
    return values[0] if len(values) == 1 else tuple(values)


def json_values(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    """One JSON value a line; a blank line is an empty text.

    Raises:
        CalibrationError: naming the line that is no JSON.
    """
    for number, line in enumerate(lines, start=1):
        place = f"{path}: line {number}"
        if not line.strip():
            yield place, ""
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            array = "; write the rows of an array one a line" if line.lstrip()[0] == "[" else ""
            raise CalibrationError(
                f"{place}: expected one JSON value a line: {error.msg} at column {error.colno}"
                f"{array}"
            ) from error
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{place}: expected one JSON value a line: {error}") from error
        yield place, value


def jsonl_rows(path: Path, lines: Iterable[str], columns: Sequence[str]) -> Iterator[Row]:
    """One JSON value a line: an object with the columns, a text, a pair, or token ids.

    A row without a text says so with null or ""; one without the column is of another file.

    Raises:
        CalibrationError: naming the line that is no JSON, and the column that a line lacks.
    """
    chosen: tuple[str, ...] = ()
    for place, value in json_values(path, lines):
        if isinstance(value, dict):
            chosen = choose_columns(chosen or columns, list(value), place)
            yield place, item_of(value, chosen)
        elif columns and value != "":
            raise CalibrationError(
                f"{place}: expected an object with {columns[0]!r}, got {type(value).__name__}"
            )
        else:
            yield place, value


def csv_rows(path: Path, lines: Iterable[str], columns: Sequence[str]) -> Iterator[Row]:
    """Comma-separated rows below a header; fields with commas or line breaks are quoted.

    Raises:
        CalibrationError: naming the line that does not fit the header, or the missing column.
    """
    return _table_rows(path, csv_fields(path, lines), columns)


def tsv_rows(path: Path, lines: Iterable[str], columns: Sequence[str]) -> Iterator[Row]:
    """Tab-separated rows below a header; a quote is a sign like any other.

    Raises:
        CalibrationError: naming the line that does not fit the header, or the missing column.
    """
    return _table_rows(path, tsv_fields(path, lines), columns)


def csv_fields(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Where each line of a comma-separated table stands, and its fields, the header's first.

    Raises:
        CalibrationError: naming the line that has more or fewer fields than the first.
    """
    return _fields(path, lines, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def tsv_fields(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The same of a tab-separated table, where a quote is a sign like any other."""
    return _fields(path, lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def _fields(
    path: Path, lines: Iterable[str], *, delimiter: str, quoting: Literal[0, 3]
) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    width = 0
    try:
        for fields in reader:
            place = f"{path}: line {reader.line_num}"
            width = width or len(fields)
            if fields and len(fields) != width:
                raise CalibrationError(
                    f"{place}: expected {width} fields as in the header, got {len(fields)}; "
                    "quote texts that hold the delimiter"
                )
            yield place, fields
    except csv.Error as error:
        raise CalibrationError(f"{path}: line {reader.line_num}: {error}") from error


def _table_rows(
    path: Path, rows: Iterator[tuple[str, list[str]]], columns: Sequence[str]
) -> Iterator[Row]:
    _, names = next(rows, ("", []))
    if not names:
        return
    chosen = choose_columns(columns, names, path)
    for place, fields in rows:
        yield place, item_of(dict(zip(names, fields, strict=True)), chosen) if fields else ""
