"""How the calibration text of ``fuselage build`` is named on the command line."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import fuselage
from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.text.survey import Survey
from fuselage.compiler.cli import run
from fuselage.compiler.recipe import Request

PAGE = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text("utf-8")


class Stop(fuselage.FuselageError):
    """Ends a build before it begins."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Requests that reached the build; none is carried out."""
    requests: list[Request] = []

    def stop(request: Request, *_: Any, **__: Any) -> None:
        requests.append(request)
        raise Stop("asked")

    # By name, because the package cli holds the function build under the name of the module.
    for module in ("fuselage.compiler.cli.build", "fuselage.compiler.pipeline"):
        monkeypatch.setattr(sys.modules[module], "run_build", stop)
    return requests


def texts_of(asked: list[Request], *options: object) -> CalibrationSet | None:
    assert run(["build", "minilm", "--precision", "int8", *map(str, options)]) == 1
    return asked.pop().texts


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text("question,answer\n" + "".join(f"q{n},a{n}\n" for n in range(900)))
    return path


def test_without_text_the_shipped_corpus_is_left_to_the_build(asked: list[Request]) -> None:
    assert texts_of(asked) is None


def test_one_column_two_columns_and_a_limit(asked: list[Request], pairs: Path) -> None:
    one = texts_of(asked, "--text", pairs, "--text-column", "question")
    two = texts_of(
        asked, "--text", pairs, "--text-column", "answer", "--text-column", "question",
        "--text-limit", 3,
    )  # fmt: skip
    assert one is not None
    assert two is not None
    assert (len(one.texts), one.seen, one.source) == (512, 900, "pairs.csv")
    assert set(one.texts) < {f"q{n}" for n in range(900)}
    assert len(two.texts) == 3
    assert all(text == (f"a{text[1][1:]}", text[1]) for text in two.texts)


def test_several_sources_and_standard_input(
    asked: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ä\nb\n".encode())))
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "c"}))
    data = texts_of(asked, "--text", "-", "--text", tmp_path / "c.jsonl")
    assert data is not None
    assert sorted(data.texts) == ["b", "c", "ä"]
    assert data.source == "standard input, c.jsonl"


@pytest.mark.usefixtures("pairs")
def test_commands_of_the_page_are_understood(
    asked: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-dataset" / "train").mkdir(parents=True)
    line = json.dumps({"text": "a", "question": "q"}) + "\n"
    for name in ["sentences.txt", "more.txt", "data.jsonl", "my-dataset/train/data.jsonl"]:
        (tmp_path / name).write_text(line)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        source, _, verb = command.rpartition("fuselage ")
        if source:
            content = (tmp_path / source.split()[1]).read_bytes()
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert run(shlex.split(verb)) == 1
    assert len(asked) == len(commands)
    assert all(request.texts is not None for request in asked)


def test_the_page_lists_every_key_of_the_survey() -> None:
    table = PAGE[PAGE.index("| key |") : PAGE.index("## When")]
    keys = {
        key
        for row in table.splitlines()
        for key in re.findall(r"`(\w+)`", row.partition("| ")[2].split("|")[0])
    }
    assert keys == {field.name for field in fields(Survey)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--text", "PAIRS", "--text-column", "text"), "its columns are 'question', 'answer'"),
        (("--text", "PAIRS"), "which column holds the text; its columns are 'question', 'answer'"),
        (("--text-column", "text"), "--text-column tells how to read --text FILE"),
        (("--text-limit", "9"), "--text-limit tells how to read --text FILE"),
        (("--text", "FOLDER"), "expected a folder with .parquet"),
        (("--text", "-", "--text", "-"), "it is named twice"),
    ],
)
def test_text_that_cannot_be_read_is_one_message(
    asked: list[Request],
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    named = {"PAIRS": str(pairs), "FOLDER": str(tmp_path / "empty")}
    out = tmp_path / "b"
    arguments = ["build", "minilm", "--precision", "int8", "--out", str(out)]
    assert run([*arguments, *(named.get(option, option) for option in options)]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert asked == []
    assert not out.exists()


def test_python_takes_texts_pairs_token_ids_or_a_set(asked: list[Request], tmp_path: Path) -> None:
    drawn = CalibrationSet.from_texts(["a", "b"], limit=1)
    given: list[Any] = [iter(["a", ("b", "c"), [1, 2]]), drawn]
    for texts in given:
        with pytest.raises(Stop):
            fuselage.build("minilm", out=tmp_path / "b", precision="int8", texts=texts)
    first, second = (request.texts for request in asked)
    assert first is not None
    assert (len(first.texts), second) == (3, drawn)
    with pytest.raises(fuselage.CalibrationError, match="got one str"):
        fuselage.build("minilm", out=tmp_path / "b", texts="a text")
