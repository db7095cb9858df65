"""Texts of every format, their columns, and one message for each row that holds none."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fuselage.compiler.streaming.chunks import chunks
from fuselage.compiler.streaming.rows import TextFile
from fuselage.errors import CalibrationError, FuselageError, TextError


def read(
    path: Path, content: bytes, columns: Sequence[str] = (), kept: Sequence[str] = ()
) -> list[tuple[Any, tuple[Any, ...]]]:
    path.write_bytes(content)
    return [(row.text, row.kept) for row in TextFile(path, columns, kept).rows()]


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_text_ends_at_a_line_feed_and_nowhere_else(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "\ufeffone\u2028still one\r\n\x0btwo\x85\n \nthrée  \n\n".encode()
    (tmp_path / "texts").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
    file = TextFile(tmp_path / "texts" if source == "file" else Path("-"))
    assert [row.text for row in file.rows()] == ["one\u2028still one", "\x0btwo\x85", "thrée  "]
    assert file.blanks == 1


def test_json_lines_hold_texts_pairs_and_columns(tmp_path: Path) -> None:
    lines = b'{"id": 7, "text": "one", "x": 1}\n\n{"text": "two"}\n{"text": null}\n'
    assert read(tmp_path / "a.jsonl", lines, kept=["id"]) == [("one", (7,)), ("two", (None,))]
    assert read(tmp_path / "b.jsonl", b'"one"\n["two", "three"]\n') == [
        ("one", ()),
        (("two", "three"), ()),
    ]
    pairs = b'{"q": "why", "c": "so"}\n{"q": "", "c": "not"}\n'
    assert read(tmp_path / "c.jsonl", pairs, ["q", "c"]) == [(("why", "so"), ())]


def test_tables_hold_columns(tmp_path: Path) -> None:
    content = b'id,text\n1,"one, two"\n\n2,\n3,"a\nb"\n'
    assert read(tmp_path / "a.csv", content, kept=["id"]) == [
        ("one, two", ("1",)),
        ("a\nb", ("3",)),
    ]
    assert read(tmp_path / "a.tsv", b'id\ttext\n1\t"one\n', ["text"], ["id"]) == [('"one', ("1",))]


def test_parquet_holds_columns(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2, 3], "title": ["one", None, "three"], "other": [0.5, 1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    rows = list(TextFile(tmp_path / "a.parquet", ["title"], ["id"]).rows())
    assert [(row.text, row.kept) for row in rows] == [("one", (1,)), ("three", (3,))]
    assert rows[1].place.endswith("a.parquet: row 3")


@pytest.mark.parametrize(
    ("name", "content", "columns", "kept", "message"),
    [
        ("a.txt", b"x", ["text"], [], "plain text has no column 'text'; expected a file that ends"),
        ("a.txt", b"x\n\xff\n", [], [], "line 2 is not UTF-8"),
        ("a.jsonl", b'"x"\n{"a": \n', [], [], "line 2: expected one JSON value a line"),
        ("a.jsonl", b'{"a": "x", "b": "y"}\n', [], [], "expected to be told which column"),
        ("a.jsonl", b'{"text": 5}\n', [], [], "line 1: expected a str, got int"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', [], [], "line 1: the character .* surrogate"),
        ("a.jsonl", b'["a", "b", "c"]\n', [], [], "line 1: .* got a list of 3"),
        ("a.jsonl", b'"x"\n', ["text"], [], "line 1: expected an object with 'text', got str"),
        ("a.csv", b"a,b\n1,2\n", ["a"], ["c"], "there is no column 'c' to keep; its columns are"),
        ("a.csv", b"a,b\n1,2,3\n", ["a"], [], "line 2: expected 2 fields"),
        ("a.jsonl", b"", ["a", "b", "c"], [], "expected one, or two for pairs, got 3"),
    ],
)
def test_what_is_no_text_is_named(
    tmp_path: Path,
    name: str,
    content: bytes,
    columns: list[str],
    kept: list[str],
    message: str,
) -> None:
    with pytest.raises((TextError, CalibrationError), match=message) as caught:
        read(tmp_path / name, content, columns, kept)
    assert isinstance(caught.value, FuselageError)


def test_borders_of_chunks_do_not_depend_on_where_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuselage.compiler.streaming.chunks.CHUNK_ROWS", 3)
    monkeypatch.setattr("fuselage.compiler.streaming.chunks.CHUNK_CHARACTERS", 10)
    path = tmp_path / "a.txt"
    path.write_text("a\nb\nc\nlonger than ten\nd\ne\nseven 7\nf\n")
    whole = list(chunks(TextFile(path)))
    assert [chunk.end for chunk in whole] == [3, 4, 7, 8]
    for at, chunk in enumerate(whole):
        assert list(chunks(TextFile(path), chunk.end, chunk.digest)) == whole[at + 1 :]
    with pytest.raises(TextError, match=r"its first 4 texts .* no longer those"):
        list(chunks(TextFile(path), 4, whole[0].digest))
    with pytest.raises(TextError, match=r"its first 9 texts .* no longer those"):
        list(chunks(TextFile(path), 9, whole[3].digest))
