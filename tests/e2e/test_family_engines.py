"""Every family becomes TensorRT-RTX engines in which all attention is fused, without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("transformers")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "family_engines.py"


@pytest.mark.slow
def test_every_attention_of_every_family_is_a_fused_kernel(tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    command = [sys.executable, SCRIPT, "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = json.loads(file.read_text())
    assert len({cell["family"] for cell in cells}) == 17
    assert {cell["target"] for cell in cells} == {"SM80", "SM89", "SM120"}
    for cell in cells:
        where = f"{cell['family']} {cell['target']}"
        assert cell["fused"] == cell["blocks"], where
        cached = cell["family"].endswith("-cached")
        assert cell["decoding"] == (cell["blocks"] if cached else None), where
        assert cell["unfused"] == [], where
