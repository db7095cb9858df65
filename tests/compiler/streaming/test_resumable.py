"""Runs that end at every step on the disk, and what the next run makes of what they leave."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from fuselage.compiler.streaming.chunks import Chunk
from fuselage.compiler.streaming.outputs import output_of
from fuselage.compiler.streaming.resumable import ResumableRun, placed
from fuselage.compiler.streaming.rows import TextFile
from fuselage.errors import TextError

ROWS = 11
SETTING = {"the bundle": "a" * 64, "--question": None}
FORMATS = ["npy", "jsonl", "parquet"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuselage.compiler.streaming.chunks.CHUNK_ROWS", 4)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f'{{"id": {row}, "text": "text {row}"}}\n' for row in range(ROWS)))
    return path


class Engine:
    """Vectors that say which text they are of; fails when it is told to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[str] = []
        self.fail_at = fail_at

    def __call__(self, chunk: Chunk) -> Any:
        if self.fail_at is not None and chunk.end > self.fail_at:
            raise KeyboardInterrupt
        texts = [str(row.text) for row in chunk.rows]
        self.seen += texts
        numbers = [int(text.removeprefix("text ")) for text in texts]
        return np.array([[number, number + 0.5] for number in numbers], np.float32)


def run(
    texts: Path, out: Path, engine: Engine, *, restart: bool = False, **changes: Any
) -> ResumableRun:
    kept = () if out.suffix == ".npy" else ("id",)
    output = output_of(out, "embedding", kept)
    work = ResumableRun(out, output, SETTING | changes, restart=restart)
    assert work(TextFile(texts, (), kept), engine, lambda _: None) == ROWS
    return work


def stopped(texts: Path, out: Path, rows: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(texts, out, Engine(fail_at=rows))


def check(out: Path) -> None:
    """All texts once, in order."""
    numbers = np.arange(ROWS)
    vectors = np.stack([numbers, numbers + 0.5], axis=1).astype(np.float32)
    if out.suffix == ".npy":
        np.testing.assert_array_equal(np.load(out, allow_pickle=False), vectors)
    elif out.suffix == ".jsonl":
        lines = [f'{{"id": {row}, "answer": [{row}.0, {row}.5]}}\n' for row in range(ROWS)]
        assert out.read_text() == "".join(lines)
    else:
        table = parquet.read_table(out)
        assert table.column_names == ["id", "embedding"]
        assert table["id"].to_pylist() == numbers.tolist()
        np.testing.assert_array_equal(np.array(table["embedding"].to_pylist()), vectors)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def snapshots(folder: Path, monkeypatch: pytest.MonkeyPatch, into: Path) -> list[Path]:
    """Copies of a folder before and behind every step on the disk, filled while a run goes on."""
    copies: list[Path] = []

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def run_step(*args: Any, **options: Any) -> Any:
            copies.append(shutil.copytree(folder, into / f"{len(copies)}"))
            result = step(*args, **options)
            copies.append(shutil.copytree(folder, into / f"{len(copies)}"))
            return result

        return run_step

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    return copies


@pytest.mark.parametrize("kind", FORMATS)
def test_an_end_at_any_step_leaves_no_gap_and_no_answer_twice(
    kind: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with monkeypatch.context() as patch:
        copies = snapshots(folder, patch, tmp_path)
        run(texts, folder / f"out.{kind}", Engine())
    check(folder / f"out.{kind}")
    whole = (folder / f"out.{kind}").read_bytes()
    assert len(copies) > 20
    saved = 0
    for copy in copies:
        work = run(texts, copy / f"out.{kind}", Engine())
        saved += work.resumed > 0
        check(copy / f"out.{kind}")
        assert (copy / f"out.{kind}").read_bytes() == whole
    assert saved > len(copies) / 2


@pytest.mark.parametrize("kind", FORMATS)
def test_bytes_behind_the_journal_are_cut_off(kind: str, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out.{kind}"
    stopped(texts, out, 8)
    with (tmp_path / f".out.{kind}.partial").open("ab") as partial:
        partial.write(b"of a chunk" * 1000)
    engine = Engine()
    assert run(texts, out, engine).resumed == 8
    assert engine.seen == ["text 8", "text 9", "text 10"]
    check(out)


def test_vectors_are_the_bytes_of_numpy(texts: Path, tmp_path: Path) -> None:
    run(texts, tmp_path / "out.npy", Engine())
    np.save(tmp_path / "same.npy", np.load(tmp_path / "out.npy"))
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "same.npy").read_bytes()


def test_an_older_result_stays_until_the_new_one_is_whole(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    stopped(texts, out, 8)
    assert out.read_text() == "old"
    run(texts, out, Engine())
    check(out)


def test_lines_that_came_behind_are_answered(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    lines = texts.read_text().splitlines(keepends=True)
    texts.write_text("".join(lines[:9]))
    stopped(texts, out, 8)
    texts.write_text("".join(lines))
    assert run(texts, out, Engine()).resumed == 8
    check(out)


@pytest.mark.parametrize(
    ("old", "new"), [("text 3", "text 33"), ('"id": 3,', '"id": 4,'), ('{"id": 0, ', "{")]
)
def test_changed_texts_are_refused(texts: Path, tmp_path: Path, old: str, new: str) -> None:
    out = tmp_path / "out.jsonl"
    stopped(texts, out, 8)
    before = texts.read_text()
    texts.write_text(before.replace(old, new, 1))
    with pytest.raises(TextError, match=r"its first 8 texts .* give --restart"):
        run(texts, out, Engine())
    texts.write_text(before)
    assert run(texts, out, Engine(), restart=True).resumed == 0
    check(out)


def test_another_bundle_or_question_is_refused(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    stopped(texts, out, 8)
    with pytest.raises(
        TextError, match=r"8 texts .* the bundle a{12}\.\.\., now it is b{12}\.\.\."
    ):
        run(texts, out, Engine(), **{"the bundle": "b" * 64})
    with pytest.raises(TextError, match="with --question null, now it is why; go on as before"):
        run(texts, out, Engine(), **{"--question": "why"})
    assert run(texts, out, Engine()).resumed == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("journal", b"{", "expected the journal of an interrupted run"),
        ("journal", b'{"schema": 1, "rows": 4}', "expected the journal of an interrupted run"),
        ("partial", b"x", "expected at least .* bytes of answers, got 1"),
    ],
)
def test_damaged_remains_are_refused(
    texts: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    out = tmp_path / "out.jsonl"
    stopped(texts, out, 8)
    (tmp_path / f".out.jsonl.{name}").write_bytes(content)
    with pytest.raises(TextError, match=message):
        run(texts, out, Engine())
    assert run(texts, out, Engine(), restart=True).resumed == 0
    check(out)


def test_two_runs_do_not_write_one_file(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    class Second(Engine):
        def __call__(self, chunk: Chunk) -> Any:
            with pytest.raises(TextError, match="another run is writing it"):
                run(texts, out, Engine())
            return super().__call__(chunk)

    run(texts, out, Second())
    check(out)


def test_nothing_stays_when_nothing_was_answered(texts: Path, tmp_path: Path) -> None:
    stopped(texts, tmp_path / "out.npy", 0)
    texts.write_text("\n\n")
    with pytest.raises(TextError, match="expected one text a line, got no text"):
        run(texts, tmp_path / "out.npy", Engine())
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_errors_name_the_line_instead_of_the_number_in_the_chunk(texts: Path) -> None:
    rows = tuple(TextFile(texts).rows())
    chunk = Chunk(rows=rows[4:8], end=8, digest="")
    error = placed(TextError("text 2: expected the mask token"), chunk)
    assert str(error) == f"{texts}: line 7: expected the mask token"
    other = TextError("targets: none")
    assert placed(other, chunk) is other


@pytest.mark.parametrize(
    ("name", "task", "kept", "message"),
    [
        ("a.npy", "fill-mask", (), "got '.npy' for answers that are not vectors"),
        ("a.npy", "embedding", ("id",), "vectors have no column 'id'"),
        ("a.parquet", "embedding", ("embedding",), "the answers have a column of this name"),
    ],
)
def test_formats_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, task: str, kept: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TextError, match=message):
        output_of(tmp_path / name, task, kept)


@pytest.mark.parametrize(
    ("task", "answers", "expected"),
    [
        (
            "sequence-classification",
            [{"label": "A", "score": 0.5}],
            {"label": "A", "score": 0.5},
        ),
        (
            "question-answering",
            [{"answer": "x", "score": 0.5, "start": 1, "end": 2}],
            {"answer": "x", "score": 0.5, "start": 1, "end": 2},
        ),
        ("token-classification", [[{"word": "é"}]], {"answer": '[{"word": "é"}]'}),
        ("feature-extraction", [np.ones((1, 2, 1))], {"answer": "[[[1.0], [1.0]]]"}),
    ],
)
def test_answers_of_every_task_have_columns(
    texts: Path, tmp_path: Path, task: str, answers: Any, expected: dict[str, Any]
) -> None:
    texts.write_text('{"text": "x", "id": 5}\n')
    out = tmp_path / "out.parquet"
    work = ResumableRun(out, output_of(out, task, ("id",)), SETTING)
    assert work(TextFile(texts, (), ("id",)), lambda _: answers, lambda _: None) == 1
    assert parquet.read_table(out).to_pylist() == [{"id": 5, **expected}]


def test_a_kept_column_keeps_its_type(texts: Path, tmp_path: Path) -> None:
    texts.write_text(texts.read_text().replace('"id": 9', '"id": "nine"'))
    with pytest.raises(TextError, match="line 9 and behind: the column 'id' cannot be kept as int"):
        run(texts, tmp_path / "out.parquet", Engine())
