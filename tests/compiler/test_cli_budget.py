"""--min-sqnr and --min-cosine, from the command line to the build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import fuselage
from fuselage.compiler.cli import run
from fuselage.compiler.models.source import ModelSource
from fuselage.compiler.recipe import Request, recipe_of


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    requests: list[Request] = []

    def stop(request: Request, *_: Any, **__: Any) -> None:
        requests.append(request)
        raise fuselage.FuselageError("asked")

    for module in ("fuselage.compiler.cli.build", "fuselage.compiler.pipeline"):
        monkeypatch.setattr(sys.modules[module], "run_build", stop)
    return requests


def test_both_reach_the_request(asked: list[Request]) -> None:
    options = ["--precision", "int8", "--min-sqnr", "27.5", "--min-cosine", "0.99"]
    assert run(["build", "minilm", *options]) == 1
    assert (asked[0].min_sqnr, asked[0].min_cosine) == (27.5, 0.99)
    with pytest.raises(fuselage.FuselageError, match="asked"):
        fuselage.build("minilm", out="b", precision="int8", min_sqnr=20.0)
    assert (asked[1].min_sqnr, asked[1].min_cosine) == (20.0, None)


def test_cosine_beyond_one_is_refused(
    asked: list[Request], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["build", "minilm", "--precision", "int8", "--min-cosine", "1.5"]) != 0
    assert "min-cosine" in capsys.readouterr().err
    assert asked == []


def test_float_build_has_no_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b"
    options = ["--precision", "fp32", "--target", "ort-cpu", "--out", str(out)]
    assert run(["build", "minilm", *options, "--min-sqnr", "20"]) == 1
    assert "has no INT8 layers to leave in float" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--min-sqnr", "nan", "--min-sqnr nan: expected decibels"),
        ("--min-sqnr", "inf", "--min-sqnr inf: expected decibels"),
        ("--min-cosine", "1", "--min-cosine 1.0: expected -1 to below 1"),
    ],
)
def test_a_bound_that_nothing_meets_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    out = tmp_path / "b"
    options = ["--precision", "int8", "--target", "ort-cpu", "--out", str(out)]
    assert run(["build", "minilm", *options, option, value]) == 1
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_another_budget_is_another_recipe(tmp_path: Path) -> None:
    source = ModelSource(
        id="m", folder=tmp_path, revision=None, config={}, digest="d" * 64, weights="random"
    )
    recipes = [
        recipe_of(Request(model="m", out=tmp_path, min_sqnr=bound), source, ())
        for bound in (None, 20.0, 25.0)
    ]
    assert len({str(recipe) for recipe in recipes}) == 3
