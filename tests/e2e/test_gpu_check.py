"""The GPU kit without a GPU: every part's code runs, and nothing is taken for a measurement."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuselage.engines import host

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "gpu_check.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_part_runs_on_a_cpu(tmp_path: Path) -> None:
    done = check("--cpu-smoke", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "cpu-smoke.json").read_text())
    assert content["smoke"]
    parts = content["parts"]
    assert list(parts) == ["executor", "suite", "floors", "ort", "flavours", "baselines"]
    optional = {"flavours", "baselines"}
    for name, part in parts.items():
        allowed = {"ran", "skipped"} if name in optional else {"ran"}
        assert part["status"] in allowed, (name, part)
        assert part["status"] == "ran" or len(part["reason"]) > 20
    rows = {row["name"]: row for row in parts["executor"]["rows"]}
    assert rows["numpy on the fake GPU, CUDA graphs"]["graph_launches"] > 20
    assert rows["numpy on the fake GPU, no CUDA graphs"]["graph_launches"] == 0
    assert rows["numpy on the fake GPU, 8 threads"]["checked"] == 48
    assert {row["name"] for row in parts["floors"]["rows"]} >= {
        "smallest work, waited for", "smallest graph, one after another", "copy to the GPU",
    }  # fmt: skip
    assert all(row["relative_error"] < 1e-5 for row in parts["ort"]["rows"])
    text = (tmp_path / "cpu-smoke.md").read_text()
    assert "no figure below says anything" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {name}" for name in parts
    ]


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    if host.gpus():
        pytest.skip("there is a GPU here")
    done = check("--out", tmp_path)
    assert done.returncode == 1
    assert "no NVIDIA GPU answers here, so nothing was measured" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_costs_no_other_part(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os; os.abort()\n")
    done = check(
        "--cpu-smoke", "--only", "ort", "floors", "--packages", tmp_path, "--out", tmp_path
    )
    assert done.returncode == 1
    parts = json.loads((tmp_path / "cpu-smoke.json").read_text())["parts"]
    assert parts["ort"]["status"] == "failed"
    assert "exit code -6" in parts["ort"]["reason"]
    assert parts["floors"]["status"] == "ran"


def test_rows_before_a_crash_are_kept_and_nothing_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(os.environ['PROOF'], 'w').write(str(child.pid))\n"
        "import time; time.sleep(600)\n"
    )
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu_check = importlib.import_module("gpu_check")
    monkeypatch.setattr(gpu_check, "_LEAST", 1.0)
    environment = gpu_check._environment(tmp_path, tmp_path) | {"PROOF": str(tmp_path / "pid")}
    part = gpu_check._child("floors", argparse.Namespace(cpu_smoke=True), environment, 12.0)
    assert part["status"] == "failed"
    assert part["reason"] == "still at work after 12 s"
    assert {row["name"] for row in part["rows"]} >= {"smallest work, waited for", "copy to the GPU"}
    child = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or ") Z " in status.read_text()


def test_numpy_alone_is_enough_for_the_executor(tmp_path: Path) -> None:
    missing = ("onnx", "onnx_ir", "onnxruntime", "torch", "tokenizers", "tensorrt_rtx")
    names = ("executor", "floors", "ort", "flavours", "baselines")
    for name in missing:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name}', name='{name}')\n")
    out = tmp_path / "out"
    done = check("--cpu-smoke", "--only", *names, "--packages", tmp_path, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads((out / "cpu-smoke.json").read_text())["parts"]
    assert parts["executor"]["status"] == parts["floors"]["status"] == "ran"
    for name in ("ort", "flavours", "baselines"):
        assert parts[name]["status"] == "skipped", parts[name]


def test_a_missing_package_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch', name='torch')\n")
    done = check(
        "--cpu-smoke", "--only", "baselines", "--packages", tmp_path, "--out", tmp_path / "out"
    )
    assert done.returncode == 0
    part = json.loads((tmp_path / "out/cpu-smoke.json").read_text())["parts"]["baselines"]
    assert part["status"] == "skipped"
    assert "torch is not installed here" in part["reason"]
