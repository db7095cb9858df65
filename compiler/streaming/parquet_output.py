"""Answers to Parquet, by way of an Arrow stream.

Parquet has its index at its end and cannot be continued; a stream is a schema and then batches.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import MissingPackageError, TextError
from .chunks import Chunk
from .outputs import plain

_GROUP_ROWS = 1 << 16
"""Rows of a row group at most."""

_GROUP_BYTES = 1 << 24


class ParquetOutput:
    """Kept columns, then those of the answer.

    Embedding: ``embedding``, a fixed-size list of float32. Sequence classification: ``label`` and
    ``score``. Question answering: ``answer``, ``score``, ``start``, ``end``. Else ``answer``, the
    JSON text of it. A kept column has the type of its first chunk.
    """

    def __init__(self, task: str, kept: Sequence[str]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import ipc, parquet  # noqa: F401  (attributes of pyarrow once imported)
        except ImportError as error:
            raise MissingPackageError("pyarrow", "datasets", "writing .parquet") from error
        self._pa: Any = pa
        self._task = task
        self._kept = tuple(kept)
        self._schema: Any = None
        taken = [name for name in kept if name in _COLUMNS.get(task, ("answer",))]
        if taken:
            raise TextError(
                f"--keep-column {taken[0]}: the answers have a column of this name; rename it or "
                "write .jsonl"
            )

    def write(self, file: BinaryIO, chunk: Chunk, answers: Any, /) -> None:
        """Append a batch."""
        if self._schema is None and file.tell():
            self._schema = self._written_schema(file)
        kept = {name: [row.kept[at] for row in chunk.rows] for at, name in enumerate(self._kept)}
        arrays = {
            **{name: self._kept_array(name, values, chunk) for name, values in kept.items()},
            **self._answers(answers),
        }
        batch = self._pa.RecordBatch.from_pydict(arrays)
        if self._schema is None:
            self._schema = batch.schema
            file.write(self._schema.serialize())
        file.write(batch.serialize())

    def finish(self, file: BinaryIO, partial: Path, _rows: int, /) -> Path:
        """Copy the stream into row groups, one at a time."""
        pa = self._pa
        result = partial.with_name(f"{partial.name}.parquet")
        file.flush()
        # a dictionary of numbers is larger than they are
        texts = [*self._kept, "label"]
        with (
            pa.OSFile(str(partial)) as stream,
            pa.ipc.open_stream(stream) as batches,
            pa.parquet.ParquetWriter(result, batches.schema, use_dictionary=texts) as writer,
        ):
            group: list[Any] = []
            for batch in batches:
                group.append(batch)
                held = sum(part.num_rows for part in group)
                if held >= _GROUP_ROWS or sum(part.nbytes for part in group) >= _GROUP_BYTES:
                    writer.write_table(pa.Table.from_batches(group), row_group_size=held)
                    group = []
            if group:
                writer.write_table(pa.Table.from_batches(group), row_group_size=_GROUP_ROWS)
        with result.open("rb+") as written:
            os.fsync(written.fileno())
        return result

    def _written_schema(self, file: BinaryIO) -> Any:
        end = file.tell()
        file.seek(0)
        schema = self._pa.ipc.read_schema(self._pa.ipc.read_message(file))
        file.seek(end)
        return schema

    def _kept_array(self, name: str, values: list[Any], chunk: Chunk) -> Any:
        pa = self._pa
        kind = None if self._schema is None else self._schema.field(name).type
        try:
            array = pa.array(values, kind)
        except (pa.ArrowException, OverflowError) as error:
            raise TextError(
                f"{chunk.rows[0].place} and behind: the column {name!r} cannot be kept as "
                f"{kind or 'one type'}: {error}; write .jsonl"
            ) from error
        return array.cast(pa.string()) if array.type == pa.null() else array

    def _answers(self, answers: Any) -> dict[str, Any]:
        pa = self._pa
        if self._task == "embedding":
            vectors = np.ascontiguousarray(answers, np.float32)
            flat = pa.array(vectors.ravel())
            return {"embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}
        columns = _COLUMNS.get(self._task)
        if columns is None:
            lines = [json.dumps(plain(answer), ensure_ascii=False) for answer in answers]
            return {"answer": pa.array(lines, pa.string())}
        return {
            name: pa.array([answer[name] for answer in answers], getattr(pa, kind)())
            for name, kind in columns.items()
        }


_COLUMNS = {
    "embedding": {"embedding": ""},
    "sequence-classification": {"label": "string", "score": "float32"},
    "question-answering": {
        "answer": "string",
        "score": "float32",
        "start": "int64",
        "end": "int64",
    },
}
"""Columns of the answers, and their types."""
