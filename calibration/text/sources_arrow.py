"""Rows of Parquet and Arrow files, the forms in which datasets of the Hugging Face Hub are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import CalibrationError, MissingPackageError
from .sources_columns import Row, choose_columns, item_of

Record = tuple[str, Mapping[str, object]]
"""Where a row stands, and its columns by name."""

_ROWS = 1024
"""Rows decoded at a time."""

_ARROW_FILE = b"ARROW1"
"""How the random-access form begins; the stream form, which datasets are saved in, does not."""


Choose = Callable[[Sequence[str]], Sequence[str]]
"""The names of the columns there are to those to read."""


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a Parquet file, the chosen columns alone.

    Raises:
        CalibrationError: when it is no such file, or a column is missing.
        MissingPackageError: when pyarrow is not installed.
    """
    return _items(path, parquet_records, columns)


def arrow_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of an Arrow file in its stream or random-access form.

    Raises:
        CalibrationError: when it is no such file, or a column is missing.
        MissingPackageError: when pyarrow is not installed.
    """
    return _items(path, arrow_records, columns)


def parquet_records(path: Path, choose: Choose) -> Iterator[Record]:
    """Where each row of a Parquet file stands, and its chosen columns by name.

    Raises:
        CalibrationError: when it is no such file.
        MissingPackageError: when pyarrow is not installed.
    """
    pa = _pyarrow(path)
    from pyarrow import parquet

    with _faults(path, pa), parquet.ParquetFile(path) as file:
        chosen = choose(file.schema_arrow.names)
        yield from _records(path, file.iter_batches(_ROWS, columns=list(chosen)), chosen)


def arrow_records(path: Path, choose: Choose) -> Iterator[Record]:
    """The same of an Arrow file in its stream or random-access form.

    Raises:
        CalibrationError: when it is no such file.
        MissingPackageError: when pyarrow is not installed.
    """
    pa = _pyarrow(path)
    with _faults(path, pa), pa.OSFile(str(path)) as file:
        is_file = file.read(len(_ARROW_FILE)) == _ARROW_FILE
        file.seek(0)
        if is_file:
            reader = pa.ipc.open_file(file)
            batches: Iterable[Any] = map(reader.get_batch, range(reader.num_record_batches))
        else:
            batches = reader = pa.ipc.open_stream(file)
        yield from _records(path, batches, choose(reader.schema.names))


def _items(
    path: Path, read: Callable[[Path, Choose], Iterator[Record]], columns: Sequence[str]
) -> Iterator[Row]:
    chosen: list[str] = []

    def choose(names: Sequence[str]) -> Sequence[str]:
        chosen.extend(choose_columns(columns, names, path))
        return chosen

    for place, record in read(path, choose):
        yield place, item_of(record, chosen)


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import ipc  # noqa: F401  (an attribute of pyarrow once imported)
    except ImportError as error:
        raise MissingPackageError("pyarrow", "datasets", f"reading {path.name}") from error
    return pa


@contextmanager
def _faults(path: Path, pa: Any) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CalibrationError(f"{path}: expected a {path.suffix} file, got: {error}") from error


def _records(path: Path, batches: Iterable[Any], chosen: Sequence[str]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        held = {name: batch.column(name).to_pylist() for name in chosen}
        for at in range(batch.num_rows):
            number += 1
            yield f"{path}: row {number}", {name: values[at] for name, values in held.items()}
