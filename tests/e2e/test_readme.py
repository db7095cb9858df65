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
def workplace(minilm_int8: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where build/minilm is what `make engine` builds."""
    (tmp_path / "build").mkdir()
    os.symlink(minilm_int8.root, tmp_path / "build" / "minilm", target_is_directory=True)
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
        "WEIGHTS=random", "TASK=embedding", "OUT=build/of mine", "MIN_SQNR=25",
    )  # fmt: skip
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "engine", *variables],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    words = shlex.split(done.stdout.replace("\\\n", " ").splitlines()[-1])
    assert words[1:] == [
        "build", "./m", "--out", "build/of mine", "--precision", "int8", "--task", "embedding",
        "--weights", "random", "--target", "ort-cpu", "--target", "tensorrt-rtx",
        "--text", "a.txt", "--text", "b.txt", "--min-sqnr", "25",
    ]  # fmt: skip


def test_make_builds_int8_with_the_accuracy_gate_and_floats_without() -> None:
    def line(*variables: str) -> list[str]:
        command = ["make", "--no-print-directory", "--dry-run", "engine", *variables]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return shlex.split(done.stdout.replace("\\\n", " ").splitlines()[-1])

    plain = ["build", "minilm", "--precision", "int8", "--task", "auto", "--weights", "pretrained"]
    assert line()[1:] == [*plain, "--min-sqnr", "20"]
    assert "--min-sqnr" not in line("PRECISION=auto")


def test_fuselage_commands_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        if command.startswith("fuselage "):
            assert run(shlex.split(command)[1:]) == 0, command
    out = capsys.readouterr().out
    assert first_numbers(out) == pytest.approx(first_numbers(README), abs=5e-3)
    assert (workplace / "build" / "minilm.ort.onnx").is_file()


def first_numbers(text: str) -> list[float]:
    """The first three numbers of a printed vector; CPUs round INT8 answers a little differently."""
    found = re.search(r"^\[(-?[0-9][^]]*)", text, re.MULTILINE)
    assert found is not None
    return [float(number) for number in found[1].split(",")[:3]]


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
