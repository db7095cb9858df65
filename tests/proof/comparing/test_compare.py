"""Verdicts: what passes, what fails and where, by subjects with faults to order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fuselage.errors import VerificationError
from fuselage.graph.tensors import Array, TensorSpec
from fuselage.proof.comparing.cases import Case
from fuselage.proof.comparing.compare import Comparison, compare_subjects
from fuselage.proof.comparing.failures import NOISE_FACTOR, NOTHING_JUDGED
from fuselage.proof.comparing.gates import Gates, read_gates
from fuselage.proof.comparing.sources import Asked
from fuselage.proof.subjects.base import Subject

from .conftest import Fault, TableSubject

Cases = tuple[Case, ...]


def test_an_equal_subject_passes_with_no_error_at_all(cases: Cases) -> None:
    found = _compared(cases, None)
    (candidate,) = found.candidates
    assert found.passed
    assert candidate.outputs[0].metrics["relative"] == 0.0
    assert candidate.determinism.identical
    assert candidate.invariance.rows == 3
    assert candidate.invariance.in_batch["hidden"]["max_abs"] == 0.0
    assert candidate.invariance.padded["hidden"]["max_abs"] == 0.0


def test_the_worst_case_is_named(cases: Cases) -> None:
    def in_wide_batches(_: Mapping[str, Array], answer: Array) -> Array:
        return np.asarray(answer * np.float32(1.001)) if len(answer) == 3 else answer

    (candidate,) = _compared(cases, in_wide_batches).candidates
    assert not candidate.passed
    assert str(candidate.failures[0]) == (
        "hidden: relative 0.001 exceeds 2e-05 in the case 'ragged'"
    )
    assert candidate.outputs[0].cases[0].relative == 0.0


def test_what_stands_at_padding_is_not_judged(cases: Cases) -> None:
    def at_padding(feeds: Mapping[str, Array], answer: Array) -> Array:
        hidden = np.asarray(feeds["attention_mask"])[..., None] == 0
        return np.where(hidden, np.float32(1e6), answer)

    assert _compared(cases, at_padding).passed


def test_a_leak_from_padding_into_tokens_fails(cases: Cases) -> None:
    def leak(feeds: Mapping[str, Array], answer: Array) -> Array:
        hidden = (np.asarray(feeds["attention_mask"]) == 0).sum(axis=1)
        return np.asarray(answer + np.float32(1e-3) * hidden[:, None, None].astype(np.float32))

    (candidate,) = _compared(cases, leak).candidates
    reasons = [str(failure) for failure in candidate.failures]
    assert re.search("relative .* in the case 'ragged'", reasons[0])
    assert any("in a batch instead of alone, relative" in reason for reason in reasons)
    assert any("padded further, relative" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda _, answer: np.where(answer > 1, np.nan, answer), "hidden: NaN at"),
        (lambda _, answer: np.full_like(answer, np.inf), "hidden: infinity at [0, 0, 0]"),
        (lambda _, answer: answer[..., :5], "hidden: shape [2, 4, 5] instead of [2, 4, 6]"),
    ],
)
def test_answers_that_cannot_be_measured_fail(cases: Cases, fault: Fault, reason: str) -> None:
    found = _compared(cases[:1], fault)
    assert str(found.candidates[0].failures[0]).startswith(reason)
    assert not found.passed


def test_noise_of_the_reference_raises_the_default_bound_and_no_other(cases: Cases) -> None:
    noisy = _Noisy("reference")
    off = TableSubject("candidate", lambda _, answer: answer * np.float32(1.00025))
    found = compare_subjects(noisy, [off], Asked(cases=cases))
    floor = found.noise["hidden"]["relative"]
    assert floor == pytest.approx(1e-4, rel=1e-3)
    assert found.candidates[0].outputs[0].bounds["relative"] == pytest.approx(NOISE_FACTOR * floor)
    assert found.passed
    gates = read_gates(None, ["relative=1e-4"])
    assert not compare_subjects(noisy, [off], Asked(cases=cases), gates).passed


def test_rows_without_tokens_are_judged_where_both_sides_promise_them() -> None:
    mask = np.array([[True, True], [False, False]])
    ids = np.array([[1, 2], [3, 4]])
    feeds = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    empty = Case(name="empty", feeds=feeds, mask=mask)

    def other_row(feeds: Mapping[str, Array], answer: Array) -> Array:
        del feeds
        changed = np.array(answer)
        changed[1] += 1
        return changed

    def pooled(precision: str) -> Comparison:
        return compare_subjects(
            _Pooled("reference"), [_Pooled("c", other_row, precision)], Asked(cases=(empty,))
        )

    assert not pooled("fp32").passed
    assert pooled("fp16").passed


def test_a_reference_with_nan_is_refused(cases: Cases) -> None:
    reference = TableSubject("reference", lambda _, answer: answer * np.float32("nan"))
    with pytest.raises(VerificationError, match=r"reference: the reference itself answers NaN"):
        compare_subjects(reference, [TableSubject("candidate")], Asked(cases=cases))


def test_a_subject_that_changes_its_mind_is_told(cases: Cases) -> None:
    count = itertools.count()

    def drift(feeds: Mapping[str, Array], answer: Array) -> Array:
        del feeds
        return np.asarray(answer + np.float32(1e-7) * np.float32(next(count)))

    (candidate,) = _compared(cases, drift, read_gates(None, ["relative=1"])).candidates
    assert not candidate.determinism.identical
    assert 1e-7 < candidate.determinism.max_abs < 1e-6


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_other_inputs_or_outputs_are_refused_with_both_lists(cases: Cases, what: str) -> None:
    candidate = TableSubject("candidate")
    setattr(candidate, what, (TensorSpec("other", "int64", ("batch", "sequence")),))
    wanted = ", ".join(spec.name for spec in getattr(TableSubject, what))
    message = f"candidate has the {what} other, but reference has {wanted}; compare subjects of"
    with pytest.raises(VerificationError, match=message):
        compare_subjects(TableSubject("reference"), [candidate], Asked(cases=cases))


def test_without_a_candidate_there_is_nothing_to_compare(cases: Cases) -> None:
    with pytest.raises(VerificationError, match="at least one candidate"):
        compare_subjects(TableSubject(), [], Asked(cases=cases))


def test_the_document_holds_what_a_report_needs(cases: Cases) -> None:
    document = _compared(cases, lambda _, answer: answer * np.float32(1.001)).as_document()
    assert (document["schema"], document["kind"], document["passed"]) == (1, "comparison", False)
    assert [case["name"] for case in document["cases"]] == ["even", "ragged"]
    assert document["cases"][1]["shapes"]["input_ids"] == [3, 5]
    assert {"cpu", "versions", "system"} <= set(document["environment"])
    (candidate,) = document["candidates"]
    (output,) = candidate["outputs"]
    histogram = output["histogram"]
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert sum(histogram["counts"]) + histogram["exact"] == output["numbers"] == (8 + 10) * 6
    assert output["metrics"]["relative"] == pytest.approx(1e-3, rel=1e-3)
    worst = output["worst_rows"][0]
    assert worst["text"] == f"{worst['case']} {worst['row']}"
    assert candidate["failures"][0]["output"] == "hidden"
    assert candidate["determinism"] == {"runs": 3, "identical": True, "max_abs": 0.0}


@pytest.mark.parametrize(
    ("broken_when", "words"),
    [
        (lambda mask: mask.shape[1] > 5, "hidden: padded further, NaN at"),
        (lambda mask: mask.shape[0] == 1, "hidden: relative nan"),
    ],
)
def test_nan_that_only_other_batches_show_fails(
    cases: Cases, broken_when: Callable[[Array], bool], words: str
) -> None:
    def fault(feeds: Mapping[str, Array], answer: Array) -> Array:
        is_broken = broken_when(np.asarray(feeds["attention_mask"]))
        return answer * np.float32("nan") if is_broken else answer

    (candidate,) = _compared(cases, fault).candidates
    assert words.split(": ")[1] in " ".join(str(failure) for failure in candidate.failures)


def test_an_output_of_which_nothing_is_judged_does_not_pass(cases: Cases) -> None:
    hidden = [replace(case, mask=np.zeros_like(case.mask)) for case in cases]
    found = _compared(tuple(hidden), lambda _, answer: answer + 1)
    assert [failure.reason for failure in found.candidates[0].failures] == [NOTHING_JUDGED]


@pytest.mark.parametrize("bound", ["hidden:kl=1", "top_1=0.9"])
def test_a_bound_on_what_has_no_value_does_not_pass(cases: Cases, bound: str) -> None:
    found = _compared(cases, None, read_gates(None, [bound]))
    metric = bound.partition("=")[0].rpartition(":")[2]
    assert str(found.candidates[0].failures[0]) == f"hidden: {metric} has a bound and no value here"
    assert _compared(cases, None, read_gates(None, ["snr_db=60"])).passed  # no noise at all


class _Noisy(TableSubject):
    """One whose float64 self differs by 1e-4."""

    def in_float64(self) -> Subject:
        return TableSubject("exact", lambda _, answer: answer.astype(np.float64) * 1.0001, "fp64")


class _Pooled(TableSubject):
    """One vector a text, of a task, so that it promises something for empty rows."""

    outputs = (TensorSpec("hidden", "float32", ("batch", 6)),)
    task = SimpleNamespace(task="embedding", max_tokens=16)  # type: ignore[assignment]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        answer = TableSubject("inner").run(feeds)["hidden"].mean(axis=1)
        return {"hidden": answer if self._fault is None else self._fault(feeds, answer)}


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [(["relative=0.5", "max_abs=1e-6"], 0.005), (["relative=0.001"], 0.001)],
)
def test_an_output_within_its_relative_bound_is_located_too(
    cases: Cases, monkeypatch: pytest.MonkeyPatch, bounds: list[str], expected: float
) -> None:
    """What values inside may be off is less than the output is, whatever bound it breaks."""
    asked: list[float] = []

    def locate(*_: object, tolerance: float) -> None:
        asked.append(tolerance)

    monkeypatch.setattr("fuselage.proof.locating.locate.locate_divergence", locate)
    gates = read_gates(None, bounds)
    found = _compared(cases, lambda _, answer: np.asarray(answer * np.float32(1.01)), gates)
    assert not found.passed
    assert asked == [pytest.approx(expected, rel=1e-3)]


def _compared(cases: Cases, fault: Fault | None, gates: Gates | None = None) -> Comparison:
    return compare_subjects(
        TableSubject("reference"), [TableSubject("candidate", fault)], Asked(cases=cases), gates
    )
