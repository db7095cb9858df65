"""Files through `fuselage run`: an interruption, and the command that it says goes on."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fuselage
from fuselage.compiler.cli import run
from fuselage.engines.bundle import Bundle


def test_an_interrupted_run_says_how_to_go_on(minilm: Bundle, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    lines = [f"number {number}" for number in range(2500)]
    texts.write_text("\n".join(lines), encoding="utf-8")
    out, journal = tmp_path / "out.npy", tmp_path / ".out.npy.journal"
    arguments = ["run", minilm.root, "--target", "ort-cpu", "--text-file", texts, "--out", out]
    command = [sys.executable, "-m", "fuselage", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not journal.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "answers are kept in" in err
    assert "Traceback" not in err
    assert not out.exists()
    done = json.loads(journal.read_text())["rows"]
    assert done in (1024, 2048)
    words = shlex.split(err.strip().splitlines()[-1].split("goes on behind them: ")[1])
    assert words[0] == "fuselage"
    again = subprocess.run(
        [sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True, check=True
    )
    assert f"{done:,} texts were answered before" in again.stderr
    with fuselage.pipeline(minilm.root, target="ort-cpu") as embed:
        sample = embed([lines[at] for at in (0, 1023, 1024, 2047, 2048, 2499)])
    vectors = np.load(out, allow_pickle=False)
    assert vectors.shape == (2500, 384)
    np.testing.assert_allclose(vectors[[0, 1023, 1024, 2047, 2048, 2499]], sample, atol=2e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "texts.txt"]


def test_columns_are_read_and_kept(
    minilm: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text('id,title,body\n7,one,"a text, quoted"\n8,two,\n9,three,another\n')
    arguments = ["run", minilm.root, "--target", "ort-cpu", "--text-file", texts]
    columns = ["--text-column", "body", "--keep-column", "id"]
    assert run([*map(str, arguments), *columns]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["id"] for row in rows] == ["7", "9"]
    assert [len(row["answer"]) for row in rows] == [384, 384]
    assert "1 blank lines were left out" in captured.err
