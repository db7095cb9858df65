"""What `--save-polygraphy` writes: judged again by the plain ``polygraphy`` command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuselage.engines.bundle import Bundle
from fuselage.errors import VerificationError
from fuselage.proof.comparing.cases import Case
from fuselage.proof.comparing.compare import compare_subjects
from fuselage.proof.comparing.polygraphy_files import PolygraphyFolder
from fuselage.proof.comparing.run import ComparisonRequest, run_comparison
from fuselage.proof.comparing.runners import SubjectRunner
from fuselage.proof.comparing.sources import Asked
from fuselage.proof.subjects.open import open_subject

from .conftest import SIZE, TableSubject


@pytest.fixture(scope="module")
def folder(model_folder: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model against its bundle, which is good."""
    path = tmp_path_factory.mktemp("polygraphy") / "saved"
    request = ComparisonRequest(
        reference=f"torch:random:{model_folder}",
        candidates=[f"bundle:{bundle.root}"],
        save_polygraphy=path,
    )
    assert run_comparison(request).passed
    return path


def test_the_folder_is_small_and_stands_alone(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "bounds.json",
        "compare.sh",
        "inputs.json",
        "judge.py",
        "measures.py",
        "reference.json",
    ]
    for name in ("judge.py", "measures.py"):
        text = (folder / name).read_text()
        assert "from ." not in text
        assert "import fuselage" not in text
    candidate = json.loads((folder / "bounds.json").read_text())["candidates"]["1"]
    assert candidate["with_empty_rows"] is True
    assert candidate["outputs"]["logits"]["is_logits"] is True


def test_polygraphy_says_that_a_good_candidate_is_good(folder: Path) -> None:
    run = _script(folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Passed: 12/12 iterations" in run.stdout
    assert "Passed: 1/1 outputs" in run.stdout


def test_polygraphy_says_that_a_damaged_candidate_is_not(folder: Path, damaged_graph: Path) -> None:
    run = _script(folder, MODEL_1=str(damaged_graph))
    assert run.returncode == 1
    assert "logits: relative" in run.stdout
    assert "12/12 iterations" not in run.stdout


def test_saved_answers_are_judged_where_polygraphy_cannot_run_a_candidate(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    reference = TableSubject("reference")
    good = TableSubject("good", lambda feeds, answer: _hidden_changed(feeds, answer))
    bad = TableSubject("bad", lambda _, answer: answer[..., ::-1])
    folder = PolygraphyFolder(tmp_path / "saved")
    found = compare_subjects(reference, [good, bad], Asked(cases=cases), keep=folder.keep)
    assert [candidate.passed for candidate in found.candidates] == [True, False]
    script = folder.write(found, reference, [good, bad])
    skipped = ("candidate_1.json --compare-func-script judge.py:OnAverage", "2.json .*EachCase")
    lines = script.read_text().splitlines()
    kept = [line for line in lines if not any(re.search(part, line) for part in skipped)]
    script.write_text("\n".join(kept))
    run = _script(script.parent)
    assert "Passed: 2/2 iterations" in run.stdout  # the good one, case by case
    assert "cosine_mean" in run.stdout  # the bad one, on average
    assert run.returncode == 1


def test_polygraphys_results_are_a_subject(folder: Path, model_folder: Path) -> None:
    with (
        open_subject(f"results:{folder / 'reference.json'}") as kept,
        open_subject(f"torch:random:{model_folder}") as model,
    ):
        assert [spec.name for spec in kept.outputs] == ["logits"]
        assert len(kept.kept) == 12
        for feeds in kept.kept.values():
            assert np.array_equal(kept.run(feeds)["logits"], model.run(feeds)["logits"])


def test_a_subject_is_a_runner_of_polygraphy(cases: tuple[Case, ...]) -> None:
    with SubjectRunner(TableSubject("table")) as runner:
        metadata = runner.get_input_metadata(use_numpy_dtypes=False)
        assert list(metadata) == ["input_ids", "attention_mask"]
        assert tuple(metadata["input_ids"].shape) == (-1, -1)
        outputs = runner.infer(cases[0].feeds)
        assert outputs["hidden"].shape == (2, 4, SIZE)
        assert runner.last_inference_time() > 0


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(VerificationError, match="expected a folder that is empty or not there"):
        PolygraphyFolder(tmp_path)


def _hidden_changed(feeds, answer):  # type: ignore[no-untyped-def]
    return np.where(np.asarray(feeds["attention_mask"])[..., None] == 0, np.float32(9), answer)


def _script(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(folder / "compare.sh")],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=os.environ | {"PATH": path} | environment,
    )
