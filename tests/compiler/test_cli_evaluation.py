"""--eval and --max-drop, from the command line to the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fuselage
from fuselage.calibration.evaluation.drops import MetricDrop
from fuselage.calibration.evaluation.records import EvaluationFile
from fuselage.compiler.cli import run
from fuselage.compiler.models.source import ModelSource
from fuselage.compiler.quantization.evaluation import Accuracy
from fuselage.compiler.recipe import Request, recipe_of

Cli = Callable[..., tuple[int, str, str]]
LABELS = {"id2label": {0: "bad", 1: "good", 2: "so so"}, "label2id": {"bad": 0}, "num_labels": 3}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    requests: list[Request] = []

    def stop(request: Request, *_: Any, **__: Any) -> None:
        requests.append(request)
        raise fuselage.FuselageError("asked")

    for module in ("fuselage.compiler.cli.build", "fuselage.compiler.pipeline"):
        monkeypatch.setattr(sys.modules[module], "run_build", stop)
    return requests


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{at}\ttext {at}\tother {at}\n" for at in range(12)))
    return path


@pytest.fixture
def moods(tmp_path: Path) -> Path:
    path = tmp_path / "moods.jsonl"
    rows = [{"review": f"text number {at}" * (at % 5 + 1), "label": at % 3} for at in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_reach_the_request(asked: list[Request], pairs: Path) -> None:
    options = ["--precision", "int8", "--max-drop", "spearman=0.1", "--eval-column", "score=number"]
    assert run(["build", "minilm", "--eval", str(pairs), *options]) == 1
    assert asked[0].max_drop == {"spearman": 0.1}
    assert asked[0].evaluation is not None
    assert (len(asked[0].evaluation.records), asked[0].evaluation.columns) == (
        12, {"score": "number"},
    )  # fmt: skip
    with pytest.raises(fuselage.FuselageError, match="asked"):
        fuselage.build("m", out="b", evaluation=pairs, max_drop={"spearman": 0.2})
    assert asked[1].max_drop == {"spearman": 0.2}
    assert asked[1].evaluation is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-drop", "spearman"], "expected METRIC=POINTS, for example spearman=0.1"),
        (["--max-drop", "bleu=1"], "unknown metric; expected one of accuracy, exact_match, f1,"),
        (["--max-drop", "f1=x"], "expected a number of points, got 'x'"),
        (["--max-drop", "f1=nan"], "expected 0 to 100 points; 0.1 is a tenth of a point"),
        (["--max-drop", "f1=-1"], "expected 0 to 100 points"),
        (["--max-drop", "f1=1", "--max-drop", "f1=2"], "f1 is given twice"),
        (["--max-drop", "f1=1"], "expected examples to measure it with; give --eval FILE"),
        (["--eval-column", "score=x"], "tells how to read --eval FILE, which was not given"),
        (["--eval", "none.tsv"], "none.tsv: no such file"),
    ],
)
def test_unusable_options_end_at_once(
    cli: Cli, tmp_path: Path, checkpoint: Any, options: list[str], message: str
) -> None:
    code, _, err = cli(
        "build", checkpoint(), "--precision", "int8", "--target", "ort-cpu",
        "--out", tmp_path / "b", *options,
    )  # fmt: skip
    assert code == 1
    assert message in err
    assert not (tmp_path / "b").exists()


def test_points_that_are_no_number_are_refused(
    pairs: Path, tmp_path: Path, checkpoint: Any
) -> None:
    wrong: Any = {"spearman": "0.1"}
    with pytest.raises(fuselage.CalibrationError, match=r"spearman=0\.1: expected 0 to 100 points"):
        fuselage.build(
            str(checkpoint()), out=tmp_path / "b", precision="int8", targets=["ort-cpu"],
            evaluation=pairs, max_drop=wrong,
        )  # fmt: skip


def test_float_build_has_nothing_to_evaluate(
    cli: Cli, tmp_path: Path, checkpoint: Any, pairs: Path
) -> None:
    out = tmp_path / "b"
    code, _, err = cli(
        "build", checkpoint(), "--precision", "fp32", "--target", "ort-cpu", "--out", out,
        "--eval", pairs,
    )  # fmt: skip
    assert code == 1
    assert "--eval pairs.tsv: precision 'fp32' has no INT8 layers to evaluate" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("BertModel", [], "no metric judges the task 'feature-extraction'"),
        ("BertForSequenceClassification", [], "found none for text; its columns are 'review', 'l"),
        ("BertForSequenceClassification", ["--eval-column", "text=review", "--max-drop",
         "spearman=1"], "(sequence-classification, judged by labels); expected accuracy or f1"),
    ],
)  # fmt: skip
def test_examples_that_do_not_fit_are_refused_before_the_export(
    cli: Cli, tmp_path: Path, checkpoint: Any, moods: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str, options: list[str], message: str,
) -> None:  # fmt: skip
    from fuselage.compiler.exporting import export

    monkeypatch.setattr(export, "export", lambda *_: pytest.fail("exported"))
    code, _, err = cli(
        "build", checkpoint(kind, **LABELS), "--precision", "int8", "--target", "ort-cpu",
        "--out", tmp_path / "b", "--eval", moods, *options,
    )  # fmt: skip
    assert code == 1
    assert message in err


def test_report_says_what_a_classifier_loses(
    cli: Cli, tmp_path: Path, checkpoint: Any, moods: Path
) -> None:
    out = tmp_path / "b"
    code, _, err = cli(
        "build", checkpoint("BertForSequenceClassification", **LABELS), "--precision", "int8",
        "--target", "ort-cpu", "--out", out, "--eval", moods, "--eval-column", "text=review",
        "--max-drop", "accuracy=100", "--text", moods, "--text-column", "review",
    )  # fmt: skip
    assert code == 0, err
    accuracy, macro = json.loads((out / "report.json").read_text())["quantization"]["accuracy"]
    assert list(accuracy) == sorted(
        ["metric", "title", "reference", "int8", "drop", "interval", "max_drop", "examples",
         "source", "digest"]
    )  # fmt: skip
    assert (accuracy["metric"], accuracy["max_drop"], accuracy["examples"]) == ("accuracy", 100, 40)
    assert (macro["metric"], macro["max_drop"], macro["source"]) == ("f1", None, "moods.jsonl")
    assert accuracy["drop"] == pytest.approx(accuracy["reference"] - accuracy["int8"])
    shown = f"accuracy {accuracy['reference']:.2f} in float, {accuracy['int8']:.2f} quantised: drop"
    assert shown in err
    assert "on 40 examples of moods.jsonl" in err
    assert accuracy["reference"] * 40 / 100 == int(accuracy["reference"] * 40 / 100)


def test_other_examples_and_budgets_are_other_recipes(tmp_path: Path, pairs: Path) -> None:
    source = ModelSource(
        id="m", folder=tmp_path, revision=None, config={}, digest="d" * 64, weights="random"
    )
    read = EvaluationFile.read(pairs)
    requests = [
        Request(model="m", out=tmp_path),
        Request(model="m", out=tmp_path, evaluation=read),
        Request(model="m", out=tmp_path, evaluation=read, max_drop={"spearman": 1.0}),
        Request(model="m", out=tmp_path, evaluation=read, max_drop={"spearman": 2.0}),
    ]
    assert len({str(recipe_of(request, source, ())) for request in requests}) == 4


def test_a_note_says_when_examples_are_too_few() -> None:
    def accuracy(interval: tuple[float, float]) -> Accuracy:
        drop = MetricDrop(
            metric="f1", title="", reference=90.0, candidate=89.9, interval=interval, examples=40
        )
        return Accuracy(drops=(drop,), source="m.csv", digest="", max_drop={"f1": 0.5})

    assert list(accuracy((-0.2, 0.4)).notes()) == []
    (note,) = accuracy((-0.2, 0.6)).notes()
    assert note == (
        "f1 loses 0.10 on m.csv, but on other examples it could be anything from -0.20 "
        "to 0.60, more than the 0.5 that may be lost; 40 examples are too few to be sure"
    )
