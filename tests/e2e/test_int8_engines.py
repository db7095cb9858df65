"""Every planned linear of every family is an INT8 kernel of TensorRT-RTX, without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "int8_engines.py"

COUNTS = {
    "bert": (12, 8),
    "roberta": (12, 8),
    "distilbert": (12, 8),
    "albert": (13, 9),
    "mpnet": (12, 8),
    "deberta-v2": (12, 8),
    "modernbert": (14, 8),
    "t5-encoder": (12, 8),
    "gpt2": (13, 9),
    "gpt2-cached": (13, 9),
    "llama": (15, 9),
    "llama-cached": (15, 9),
    "qwen2": (15, 9),
    "qwen3": (15, 9),
    "qwen3-cached": (15, 9),
}
"""Planned linears of two layers and the output, and their kernels: Q, K and V are one, and so are
gate and input of a gated feed-forward block."""


def cells(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    file = folder / "engines.json"
    command = [sys.executable, SCRIPT, *arguments, "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(file.read_text())


def check(cell: dict[str, Any]) -> None:
    where = f"{cell['family']} {cell['target']}"
    assert (cell["planned"], cell["int8_gemms"]) == COUNTS[cell["family"]], where
    assert cell["fused"] == cell["blocks"] == 2, where
    assert cell["lost"] == cell["findings"] == [], where
    assert cell["sqnr_db"] > 22, where
    assert cell["cosine_mean"] > 0.997, where


def test_packed_and_gated_blocks_are_int8_kernels(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, "--only", "modernbert", "--targets", "SM86")
    check(cell)


@pytest.mark.slow
def test_every_planned_linear_of_every_family_is_an_int8_kernel(tmp_path: Path) -> None:
    found = cells(tmp_path)
    assert {cell["family"] for cell in found} == set(COUNTS)
    assert len(found) == 4 * len(COUNTS)
    for cell in found:
        check(cell)
