"""Tables: as wide as they need to be in a pipe, one line a row where a terminal is narrow."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from fuselage.compiler.cli import console

COLUMNS = ("stage", "target", "model", "MB", "used", "key")
ROW = (
    "canonicalise",
    "tensorrt-rtx",
    "sentence-transformers/all-MiniLM-L6-v2",
    90.5,
    "3 d",
    "f" * 12,
)


@pytest.fixture
def printed() -> io.StringIO:
    return io.StringIO()


def use(monkeypatch: pytest.MonkeyPatch, file: io.StringIO, width: int) -> None:
    made = Console(file=file, width=width, force_terminal=True, soft_wrap=True, no_color=True)
    monkeypatch.setattr(console, "results", made)


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("│")]


@pytest.mark.parametrize("width", [60, 70, 80, 100])
def test_a_narrow_terminal_cuts_cells_and_folds_no_row(
    width: int, printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, printed, width)
    console.print_table("t", COLUMNS, [ROW, ROW], cut=("target", "model", "key"))
    rows = rows_of(printed.getvalue())
    assert len(rows) == 2
    assert all(len(row) <= width for row in rows)
    assert all("canonicalise" in row and "90.5" in row and "3 d" in row for row in rows)
    assert all("…" in row for row in rows)


def test_elsewhere_a_folded_cell_keeps_all_its_text(
    printed: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, printed, 60)
    console.print_table("t", COLUMNS, [ROW])
    assert len(rows_of(printed.getvalue())) > 1
    assert "…" not in printed.getvalue()


def test_a_pipe_gets_every_row_whole_on_one_line() -> None:
    code = (
        "from fuselage.compiler.cli.console import print_table\n"
        f"print_table('t', {COLUMNS}, [{ROW}])"
    )
    environment = {**os.environ, "COLUMNS": "40"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    (row,) = rows_of(done.stdout)
    assert all(str(value) in row for value in ROW)
    assert len(row) < 150
