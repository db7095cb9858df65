"""fuselage evaluate, on engines of real bundles."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fuselage
from fuselage.calibration.evaluation.drops import MetricDrop
from fuselage.calibration.evaluation.records import EvaluationFile
from fuselage.compiler.cli import run
from fuselage.engines.ort.engine import OrtEngine
from fuselage.errors import CalibrationError, SourceError
from fuselage.graph.tensors import Array, Feeds
from fuselage.proof.accuracy import evaluate as evaluation
from fuselage.proof.accuracy.evaluate import Judgement, evaluate
from fuselage.proof.subjects.open import open_subject
from fuselage.proof.subjects.results import KeptCase, save_results

TEXTS = [f"{word} is number {at} of these" for at in range(8) for word in ("ab", "cd e", "f")]


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def labelled(classifier: Path, tmp_path: Path) -> Path:
    """What the classifier itself answers, but for each sixth text."""
    with fuselage.pipeline(classifier) as classify:
        found = [answer["label"] for answer in classify(TEXTS)]
    assert set(found) == {"bad", "good"}
    other = {"bad": "good", "good": "bad"}
    rows = [
        {"text": text, "label": label if at % 6 else other[label]}
        for at, (text, label) in enumerate(zip(TEXTS, found, strict=True))
    ]
    return rows_file(tmp_path, rows)


@pytest.fixture
def contrary(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the examples are made, the bundle's engine answers the opposite of its float graph."""
    del labelled
    opened = OrtEngine.run

    def run_contrary(self: OrtEngine, feeds: Feeds) -> dict[str, Array]:
        found = opened(self, feeds)
        if getattr(self, "name", ""):
            found = {name: np.ascontiguousarray(-values) for name, values in found.items()}
        return found

    monkeypatch.setattr(OrtEngine, "run", run_contrary)


def test_an_engine_that_answers_like_its_graph_loses_nothing(
    classifier: Path, labelled: Path
) -> None:
    found = evaluate(classifier, EvaluationFile.read(labelled), max_drop={"accuracy": 0.0})
    (judgement,) = found.judgements
    accuracy, f1 = judgement.drops
    assert accuracy.reference == accuracy.candidate == pytest.approx(100 * 20 / 24)
    assert (accuracy.interval, f1.drop, found.passed) == ((0.0, 0.0), 0.0, True)
    assert judgement.name == f"bundle:{classifier}#ort-cpu"
    assert judgement.precision == "fp32"


def test_from_python(classifier: Path, labelled: Path) -> None:
    found = fuselage.evaluate(classifier, labelled, targets="ort-cpu", max_drop={"f1": 0})
    assert found.passed
    with pytest.raises(CalibrationError, match="max-drop f1=-1: expected 0 to 100 points"):
        fuselage.evaluate(classifier, labelled, max_drop={"f1": -1})


@pytest.mark.usefixtures("contrary")
def test_what_is_lost_is_measured_on_the_engine(
    classifier: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "accuracy.json"
    options = ["--data", labelled, "--max-drop", "accuracy=50", "--out", out, "--json"]
    assert run(["evaluate", str(classifier), *map(str, options)]) == 1
    printed = capsys.readouterr()
    assert "loses 66.67 of accuracy, 50 may be lost" in printed.err.replace("\n", " ")
    facts = json.loads(printed.out.splitlines()[-1])
    assert facts == json.loads(out.read_text())
    accuracy = facts["candidates"][0]["metrics"][0]
    assert accuracy["candidate"] == pytest.approx(100 * 4 / 24)
    assert (accuracy["passed"], facts["passed"], facts["examples"]) == (False, False, 24)
    # 100 (2 p - 1) with p = 20/24, two standard errors either way, to within one text
    assert accuracy["interval"] == pytest.approx([66.67 - 30, 66.67 + 30], abs=100 * 2 / 24)


def test_a_budget_that_few_examples_cannot_prove_is_doubted(
    classifier: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = evaluation.answer_all
    asked: list[str] = []

    def one_off(*arguments: Any) -> list[Any]:
        found = answered(*arguments)
        asked.append("once")
        return [1 - found[-1], *found[1:-1], 1 - found[-1]] if len(asked) == 1 else found

    monkeypatch.setattr(evaluation, "answer_all", one_off)
    found = evaluate(classifier, EvaluationFile.read(labelled), max_drop={"accuracy": 9.0})
    assert found.passed
    (note,) = [line for line in found.notes if line.startswith("accuracy")]
    assert "more than the 9 that may be lost; 24 examples are too few" in note


def test_pytorch_as_the_reference(classifier: Path, labelled: Path) -> None:
    # random weights are drawn by the architecture and the seed, so they are the same ones
    model = f"torch:random:{classifier.parent}"
    found = evaluate(classifier, EvaluationFile.read(labelled), reference=model)
    assert found.reference == model
    assert found.judgements[0].drops[0].drop == 0.0


def test_pseudo_perplexity_of_a_masked_language_model(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, [{"text": text} for text in TEXTS])
    found = evaluate(bundle("BertForMaskedLM"), EvaluationFile.read(rows))
    (metric,) = found.judgements[0].drops
    assert metric.metric == "pseudo_perplexity"
    assert metric.candidate == pytest.approx(metric.reference, rel=1e-5)
    # a random model is worse than one that takes any of 97 tokens alike
    assert metric.candidate > 97


@pytest.mark.parametrize(("candidate", "over"), [(math.nan, 1), (0.5, 1), (0.7, 0)])
def test_a_figure_that_is_no_number_keeps_no_budget(candidate: float, over: int) -> None:
    drop = MetricDrop(
        metric="accuracy",
        title="",
        reference=0.8,
        candidate=candidate,
        interval=(0.0, 0.0),
        examples=4,
    )
    judged = Judgement(name="one", precision=None, drops=(drop,))
    assert len(judged.over({"accuracy": 0.2})) == over
    assert judged.over({"f1": 0.0}) == []


def test_answers_that_were_kept_cannot_be_asked(classifier: Path, labelled: Path) -> None:
    path = labelled.with_name("kept.npz")
    with open_subject(f"bundle:{classifier}") as subject:
        feeds = {spec.name: np.ones((1, 3), np.int64) for spec in subject.inputs}
        save_results(path, subject, [KeptCase(name="one", feeds=feeds, outputs=subject.run(feeds))])
    with pytest.raises(SourceError, match="which answers anything; got answers that were kept"):
        evaluate(classifier, EvaluationFile.read(labelled), reference=f"results:{path}")


def test_a_target_that_does_not_run_is_refused_before_the_reference_is_asked(
    classifier: Path, labelled: Path
) -> None:
    with pytest.raises(fuselage.BundleError, match="tensorrt"):
        evaluate(
            classifier, EvaluationFile.read(labelled), targets=["tensorrt"], reference="torch:nope"
        )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": "bad"}] * 3, "expected at least 10 examples"),
        ([{"text": "a"}] * 12, "found none for label"),
        ([{"text": "a", "label": "fine"}] * 12, "line 1: column 'label': expected one of the"),
    ],
)
def test_examples_that_do_not_fit(
    classifier: Path, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(CalibrationError, match=message):
        evaluate(classifier, EvaluationFile.read(rows_file(tmp_path, rows)))


@pytest.mark.parametrize(
    ("out", "message"),
    [("facts.txt", "ends in .json, got '.txt'"), ("no/facts.json", "there is no folder")],
)
def test_a_document_that_cannot_be_written_is_refused_first(
    classifier: Path,
    labelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    out: str,
    message: str,
) -> None:
    options = ["--data", str(labelled), "--out", str(tmp_path / out)]
    assert run(["evaluate", str(classifier), *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err.replace("\n", " ")
    assert "ask" not in printed.err


def test_the_code_tells_a_loss_from_what_cannot_be_judged(
    classifier: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", str(classifier), "--data"]
    assert run([*command, str(labelled), "--max-drop", "accuracy=0"]) == 0
    assert run([*command, str(labelled), "--max-drop", "accuracy=nan"]) == 2
    assert run([*command, "none.jsonl"]) == 2
    monkeypatch.setattr(MetricDrop, "drop", property(lambda _: 1.0))
    assert run([*command, str(labelled), "--max-drop", "accuracy=0.5"]) == 1


def test_a_host_without_the_compilers_packages_evaluates(classifier: Path, labelled: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['torch', 'transformers', 'onnx', 'onnx_ir'])\n"
        "from fuselage.compiler.cli import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "evaluate", str(classifier), "--data", str(labelled)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
