"""Every command and every Python block of the README runs and prints what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fuselage.compiler.cli import run
from fuselage.engines.bundle import Bundle

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]


@pytest.fixture
def workplace(minilm: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where build/minilm is the default bundle."""
    (tmp_path / "build").mkdir()
    os.symlink(minilm.root, tmp_path / "build" / "minilm", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_commands() -> None:
    assert COMMANDS[:2] == ["make engine", "make test"]
    assert sum(line.startswith("fuselage ") for line in COMMANDS) >= 6


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_commands_exist(command: str) -> None:
    words = shlex.split(command)
    done = subprocess.run(
        ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_make_passes_every_variable_on() -> None:
    variables = (
        "MODEL=./m", "PRECISION=int8", "TARGETS=ort-cpu tensorrt-rtx", "TEXT=a.txt b.txt",
        "WEIGHTS=random", "TASK=embedding", "OUT=build/of mine",
    )  # fmt: skip
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "engine", *variables],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = shlex.split(done.stdout.replace("\\\n", " ").splitlines()[-1])
    assert words[1:] == [
        "build", "./m", "--out", "build/of mine", "--precision", "int8", "--task", "embedding",
        "--weights", "random", "--target", "ort-cpu", "--target", "tensorrt-rtx",
        "--text", "a.txt", "--text", "b.txt",
    ]  # fmt: skip


def test_fuselage_commands_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        if command.startswith("fuselage "):
            assert run(shlex.split(command)[1:]) == 0, command
    out = capsys.readouterr().out
    assert "[-0.0088977" in out  # the vector of "a text", as the README shows it
    assert (workplace / "build" / "minilm.ort.onnx").is_file()


def test_python_blocks_run_and_print_what_they_say(workplace: Path) -> None:
    shown = "".join(body for kind, body in BLOCKS if kind == "text")
    for kind, body in BLOCKS:
        if kind != "python":
            continue
        done = subprocess.run(
            [sys.executable, "-c", body], cwd=workplace, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        if "fuselage.build" not in body:
            assert done.stdout in shown


def test_links_lead_somewhere() -> None:
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert name.startswith("http") or (ROOT / name).exists(), name


def test_the_search_example_finds_the_answer(minilm: Bundle) -> None:
    sentences = "The cat sleeps.\nA password is reset on the account page.\nRain is due at noon.\n"
    question = "How do I get a new password?"
    command = [sys.executable, ROOT / "examples" / "search.py", minilm.root, question]
    done = subprocess.run(command, input=sentences, capture_output=True, text=True, check=True)
    assert "password is reset" in done.stdout.splitlines()[0]
