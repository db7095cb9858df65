"""``fuselage cache`` and ``fuselage verify``: what is said, and what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]
SHAPES = ("--shapes", "batch=1:2:4,sequence=1:8:32")
OPTIONS = ("--precision", "fp32", "--target", "ort-cpu", "--threads", "1", "--verify", "off")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_build_is_listed_explained_verified_and_pruned(
    cli: Cli, checkpoint: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    model, out = checkpoint(), tmp_path / "b"
    assert cli("build", model, "--out", out, *OPTIONS, *SHAPES)[0] == 0

    code, text, err = cli("cache", "ls", "--json")
    found = json.loads(text.splitlines()[-1])
    assert (code, found["folder"]) == (0, str(cache))
    stages = {(entry["stage"], entry["target"], entry["model"]) for entry in found["entries"]}
    shared = {(stage, "", "model") for stage in ("export", "reference", "canonicalise")}
    assert stages == shared | {(s, "ort-cpu", "model") for s in ("lower", "engine", "prove")}
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])
    assert "6 products, 0.00 of 10 GB" in err

    shapes = ("--shapes", "batch=1:2:4,sequence=1:8:16")
    assert cli("build", model, "--out", tmp_path / "c", *OPTIONS, *shapes)[0] == 0
    wanted = "config.profile.axes.sequence: [1, 8, 32] -> [1, 8, 16]"
    code, text, err = cli("cache", "why", tmp_path / "c", "model", "--json")
    assert code == 0, err
    subjects = json.loads(text.splitlines()[-1])["subjects"]
    of_bundle = {use["stage"]: use for use in subjects[str(tmp_path / "c")]}
    assert of_bundle["export"]["reused"]
    assert wanted in of_bundle["engine"]["changed"]
    of_model = {use["stage"]: use["changed"] for use in subjects["model"]}
    assert (wanted in of_model["engine"], of_model["export"]) == (True, [])
    code, _, err = cli("cache", "why", "nothing")
    assert (code, "'nothing': expected the folder of a bundle, or a model of which" in err) == (
        1,
        True,
    )

    code, text, err = cli("verify", out, "--rebuild", "--model", model, "--json", "--quiet")
    assert code == 0, err
    rebuilt = json.loads(text.splitlines()[-1])["rebuilt"]
    assert rebuilt["different"] == []
    assert {"graph/model.onnx", "ort-cpu/model.onnx", "tokenizer.json"} <= set(rebuilt["equal"])
    assert rebuilt["timed"] == ["ort-cpu/engine.json", "report.json"]

    assert cli("cache", "prune", "--older", "1d")[2].count("0 products removed") == 1
    assert cli("cache", "prune", "--size", "nothing")[0] == 1
    code, text, _ = cli("cache", "prune", "--all", "--json")
    assert (code, json.loads(text.splitlines()[-1])["removed"]) == (0, 9)
    assert list((cache / "stages").rglob("*.*")) == []


@pytest.mark.usefixtures("cache")
def test_verify_names_the_file_that_is_wrong_and_the_input_that_is_missing(
    cli: Cli, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    model, out, lines = checkpoint(), tmp_path / "b", tmp_path / "lines.txt"
    lines.write_text("\n".join(f"line {number}" for number in range(40)))
    options = ("--precision", "int8", *OPTIONS[2:], *SHAPES, "--text", lines)
    assert cli("build", model, "--out", out, *options)[0] == 0
    code, _, err = cli("verify", out, "--rebuild", "--model", model)
    assert code == 1
    assert "texts: expected those the bundle was built with, of digest" in err
    assert "got none; a bundle never holds them, give them with --text FILE" in err
    lines.write_text("other")
    code, _, err = cli("verify", out, "--rebuild", "--model", model, "--text", lines)
    assert (code, "got others, of digest" in err) == (1, True)
    weights = out / "graph" / "model.weights"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    code, _, err = cli("verify", out)
    assert code == 1
    assert f"{weights}: sha256 is" in err


@pytest.mark.parametrize("age", ["30", "d", "-1d", "30 days"])
@pytest.mark.usefixtures("cache")
def test_an_age_that_is_none_is_refused(cli: Cli, age: str) -> None:
    code, _, err = cli("cache", "prune", f"--older={age}")
    assert (code, "expected an age such as 30d" in err) == (1, True)
