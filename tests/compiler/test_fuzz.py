"""``fuselage optimize`` on damaged models: a sound result or one message, whatever the damage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_optimize.py"


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_hundred_damaged_models(tmp_path: Path) -> None:
    done = fuzz("--count", 100, "--seed", 0, "--keep", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 files, 0 faults" in done.stdout
    # The damage is of every kind: some models are refused, and some are rewritten and answer.
    for outcome in ("ok: refused", "ok: rewritten, 2 samples agree"):
        assert outcome in done.stdout


def test_the_judge_finds_what_is_wrong(tmp_path: Path) -> None:
    """A rewrite that changes numbers, and a file that is left behind, are faults."""
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from pathlib import Path
from fuzz import judge
from fuzz.seeds import make_seed
import onnx
def broken(arguments):
    model = onnx.load(arguments[1])
    node = next(node for node in model.graph.node if node.op_type == "Sub")
    node.op_type = "Add"
    onnx.save(model, arguments[2])
    return 0
def littering(arguments):
    Path(arguments[2]).write_bytes(b"half")
    print("error: no", file=sys.stderr)
    return 1
for run in (broken, littering):
    judge.run = run
    folder = Path({str(tmp_path)!r}) / run.__name__
    folder.mkdir()
    content = make_seed("encoder").SerializeToString()
    print(judge.judge(content, folder, (), lambda stage: None))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("fault: output 'hidden' at {'batch': 2, 'sequence': 5}: relative error")
    assert second == "fault: exit code 1 leaves ['out.onnx']"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_damaged_models(seed: int, tmp_path: Path) -> None:
    done = fuzz("--count", 1000, "--seed", seed, "--keep", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
