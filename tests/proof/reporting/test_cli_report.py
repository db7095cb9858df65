"""``fuselage report`` as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuselage.compiler.cli import run


def test_the_command_writes_a_file_and_says_where(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    assert run(["report", str(bundle), "--out", str(out), "--no-run", "--json"]) == 0
    printed = capsys.readouterr()
    assert f"written to {out}" in printed.err
    assert json.loads(printed.out.splitlines()[-1])["kind"] == "report"
    assert out.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_what_cannot_be_compared_is_said_and_left_out(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    assert run(["report", str(bundle), "--out", str(out)]) == 0
    assert "no comparison: " in capsys.readouterr().err
    assert "No comparison beyond the build" in out.read_text("utf-8")


def test_errors_are_one_line(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(tmp_path / "none")]) == 1
    assert "expected the folder of a bundle" in capsys.readouterr().err
    damaged = bundle.parent / "damaged"
    assert run(["report", str(bundle), "--benchmark", str(damaged)]) == 1
    assert "expected a benchmark document, found no file" in capsys.readouterr().err


def test_a_production_host_needs_neither_torch_nor_onnx(bundle: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["torch", "transformers", "onnx", "onnx_ir", "onnxruntime"]))
from fuselage.compiler.cli import run
sys.exit(run(["report", {str(bundle)!r}, "--out", {str(tmp_path / "r.html")!r}, "--no-run"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr
