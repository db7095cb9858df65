"""What is written is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuselage.errors import FuselageError
from fuselage.proof.writing import check_file, whole_file


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    out.write_text("old")
    with pytest.raises(ValueError, match="in the middle"):
        _fail_midway(out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with whole_file(out) as file:
        file.write(b"new")
    assert out.read_bytes() == b"new"


def test_a_disk_that_does_not_take_it_is_told(tmp_path: Path) -> None:
    out = tmp_path / "none" / "a.json"
    with (
        pytest.raises(FuselageError, match=r"a\.json: cannot be written: No such"),
        whole_file(out),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.txt", r"a name that ends in \.json, got '\.txt'"),
        ("none/a.json", "but there is no folder"),
        ("folder.json", "is a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_first(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(FuselageError, match=reason):
        check_file(tmp_path / name, ".json", ".jsonl")
    check_file(tmp_path / "B.JSON", ".json")
    check_file(None, ".json")


def _fail_midway(out: Path) -> None:
    with whole_file(out) as file:
        file.write(b"half")
        raise ValueError("in the middle")
