"""Answers to files that can be cut off behind any chunk and continued."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from ...errors import TextError
from .chunks import Chunk

_NPY_HEADER = 128
"""Bytes that numpy writes before float32 [rows, dimension], room for more rows included."""


class Output(Protocol):
    """One format. The partial file stands at the end of what holds."""

    def write(self, file: BinaryIO, chunk: Chunk, answers: Any, /) -> None:
        """Append the answers of a chunk."""

    def finish(self, file: BinaryIO, partial: Path, rows: int, /) -> Path:
        """Complete the file; it, or another one that is on the disk, becomes the result."""


class NpyOutput:
    """Vectors: float32 [rows, dimension], the bytes that ``numpy.save`` writes."""

    def write(self, file: BinaryIO, _chunk: Chunk, answers: Any, /) -> None:
        """Append rows behind the header, which counts none yet."""
        vectors = np.ascontiguousarray(answers, np.float32)
        if file.tell() == 0:
            _write_header(file, (0, vectors.shape[1]))
        file.write(vectors.data)

    def finish(self, file: BinaryIO, partial: Path, rows: int, /) -> Path:
        """Put the number of rows into the header."""
        dimension = (file.seek(0, os.SEEK_END) - _NPY_HEADER) // (4 * rows)
        file.seek(0)
        _write_header(file, (rows, dimension))
        return partial


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    begin = file.tell()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    assert file.tell() - begin == _NPY_HEADER


class JsonlOutput:
    """One JSON value a line: the answer, or an object of kept columns and ``answer``."""

    def __init__(self, kept: Sequence[str]) -> None:
        self._kept = tuple(kept)

    def write(self, file: BinaryIO, chunk: Chunk, answers: Any, /) -> None:
        """Append lines."""
        for line in json_lines(chunk, answers, self._kept):
            file.write(line.encode())

    def finish(self, _file: BinaryIO, partial: Path, _rows: int, /) -> Path:
        """Nothing is missing."""
        return partial


def json_lines(chunk: Chunk, answers: Any, kept: Sequence[str]) -> list[str]:
    """A line for each answer."""
    lines = []
    for row, answer in zip(chunk.rows, answers, strict=True):
        value = plain(answer)
        if kept:
            value = {**dict(zip(kept, row.kept, strict=True)), "answer": value}
        lines.append(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    return lines


def plain(answer: Any) -> Any:
    """An answer as JSON has it."""
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, np.generic):
        return answer.item()
    if isinstance(answer, dict):
        return {key: plain(value) for key, value in answer.items()}
    return [plain(item) for item in answer] if isinstance(answer, list | tuple) else answer


def output_of(out: Path, task: str, kept: Sequence[str]) -> Output:
    """The format that the name of a file asks for.

    Raises:
        TextError: when the task's answers cannot be written in it.
    """
    suffix = out.suffix.lower()
    if suffix == ".jsonl":
        return JsonlOutput(kept)
    if suffix == ".parquet":
        from .parquet_output import ParquetOutput

        return ParquetOutput(task, kept)
    if task != "embedding":
        raise TextError(f"{out}: {KINDS}, got {out.suffix!r} for answers that are not vectors")
    if kept:
        raise TextError(
            f"{out}: vectors have no column {kept[0]!r}; expected .parquet or .jsonl with "
            "--keep-column"
        )
    return NpyOutput()


def write_whole(out: Path, task: str, chunk: Chunk, answers: Any) -> None:
    """Write a few answers at once; under a temporary name first, so that none is half there."""
    partial = out.with_name(f".{out.name}.once")
    output = output_of(out, task, ())
    try:
        with partial.open("wb+") as file:
            output.write(file, chunk, answers)
            result = output.finish(file, partial, chunk.end)
        result.replace(out)
    finally:
        partial.unlink(missing_ok=True)


KINDS = "expected .npy (vectors of an embedding bundle), .jsonl or .parquet"


def check_out(out: Path) -> None:
    """Refuse a file that cannot be written before the work for it starts.

    Raises:
        TextError: naming what is wrong with it.
    """
    if out.suffix.lower() not in (".npy", ".jsonl", ".parquet"):
        raise TextError(f"{out}: {KINDS}, got {out.suffix!r}")
    if out.is_dir() or not out.parent.is_dir():
        found = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise TextError(f"{out}: expected a file to write in a folder that exists, but {found}")
