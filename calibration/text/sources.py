"""Where calibration text comes from: files, folders of a dataset, standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ...errors import CalibrationError
from .samples import Sample, cleaned
from .sources_arrow import arrow_rows, parquet_rows
from .sources_columns import Row, csv_rows, jsonl_rows, tsv_rows
from .sources_lines import decoded

STANDARD_INPUT = "-"

Reader = Callable[[Path, Iterator[str], Sequence[str]], Iterator[Row]]

_TEXTUAL: dict[str, Reader] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": jsonl_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
}
_BINARY = {".parquet": parquet_rows, ".arrow": arrow_rows}
_DATASET = (".parquet", ".arrow", ".jsonl", ".ndjson", ".csv", ".tsv")
"""What is data in a folder; .json files there are mostly metadata."""


def read_samples(path: str | Path, columns: Sequence[str] = ()) -> Iterator[Sample | None]:
    """Read one source from beginning to end, a bounded piece at a time.

    Args:
        path: a file, a folder, or ``-`` for standard input. The ending tells the format: .jsonl,
            .ndjson and .json (one value a line), .csv and .tsv (with a header), .parquet, .arrow;
            anything else is plain text, one text a line. Of a folder, all files with these endings
            are read, or else its .txt files. Standard input is plain text, or JSON lines when
            columns are named.
        columns: one column with texts or token ids, or two with the halves of pairs. When none is
            named: ``text``, ``input_ids``, or the only column.

    Yields:
        Samples, and None for every row that is blank.

    Raises:
        CalibrationError: naming file, line, and what to do: a source that is missing, not UTF-8,
            malformed, without data or without the column.
        MissingPackageError: for .parquet and .arrow without pyarrow.
    """
    if len(columns) > 2:
        raise CalibrationError(
            f"columns {', '.join(columns)}: expected one, or two for pairs, got {len(columns)}"
        )
    if str(path) == STANDARD_INPUT:
        yield from _textual(Path("standard input"), sys.stdin.buffer, columns)
        return
    for file in data_files(Path(path)):
        rows = _BINARY.get(file.suffix.lower())
        if rows is None:
            with _opened(file) as content:
                yield from _textual(file, content, columns)
        else:
            yield from (cleaned(item, place) for place, item in rows(file, columns))


def source_name(path: str | Path) -> str:
    """How a report names a source: without the folders it lies in."""
    if str(path) == STANDARD_INPUT:
        return "standard input"
    return Path(path).name or str(path)


def data_files(path: Path) -> tuple[Path, ...]:
    """The file itself, or the data files of a folder by name; hidden ones are left out.

    Raises:
        CalibrationError: when there is none.
    """
    if not path.is_dir():
        if not path.exists():
            raise CalibrationError(f"{path}: no such file or folder")
        return (path,)
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    found = [file for file in files if file.suffix.lower() in _DATASET]
    found = found or [file for file in files if file.suffix.lower() == ".txt"]
    if not found:
        raise CalibrationError(
            f"{path}: expected a folder with {', '.join(_DATASET)} or .txt files, found none "
            f"among {len(files)} files"
        )
    return tuple(found)


def _textual(path: Path, file: BinaryIO, columns: Sequence[str]) -> Iterator[Sample | None]:
    lines = decoded(path, file)
    is_stream = file is sys.stdin.buffer
    read = _TEXTUAL.get(".jsonl" if is_stream and columns else path.suffix.lower())
    if read is not None:
        yield from (cleaned(item, place) for place, item in read(path, lines, columns))
        return
    if columns:
        raise CalibrationError(
            f"{path}: plain text has no column {columns[0]!r}; expected a file that ends in "
            f"{', '.join([*_TEXTUAL, *_BINARY])}"
        )
    yield from (line.strip() or None for line in lines)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CalibrationError(f"{path}: the text cannot be read: {error.strerror}") from error
    with file:
        yield file
