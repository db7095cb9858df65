"""Metrics against numbers worked out by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from fuselage.proof.comparing.measures import (
    EDGES,
    METRICS,
    broken,
    measure,
    scale_of,
    scaled,
    together,
)


def test_relative_max_and_snr_by_hand() -> None:
    reference = np.array([[3.0, 4.0]], np.float32)
    found = measure(reference, np.array([[3.0, 4.5]], np.float32), _all(reference), is_logits=False)
    metrics = found.metrics()
    assert metrics["relative"] == pytest.approx(0.5 / 5)
    assert metrics["max_abs"] == 0.5
    assert metrics["snr_db"] == pytest.approx(20)
    assert metrics["cosine_min"] == pytest.approx((9 + 18) / (5 * math.sqrt(9 + 20.25)))
    assert metrics["kl"] is None
    assert found.elements == 2
    assert found.exact == 1


def test_p999_leaves_one_in_a_thousand_out() -> None:
    reference = np.zeros((1, 10_000), np.float32)
    got = np.full_like(reference, 1e-3)
    got[0, :5] = 1.0
    metrics = measure(reference, got, _all(reference), is_logits=False).metrics()
    assert metrics["max_abs"] == 1.0
    assert metrics["p999"] == pytest.approx(1e-3)
    got[0, :20] = 1.0  # two in a thousand are not
    assert measure(reference, got, _all(reference), is_logits=False).metrics()["p999"] == 1.0


def test_what_is_not_judged_has_no_say() -> None:
    reference = np.ones((2, 3, 4), np.float32)
    got = reference.copy()
    got[1, 2] = 99.0
    judged = np.ones(reference.shape, bool)
    judged[1, 2] = False
    found = measure(reference, got, judged, is_logits=False)
    assert found.metrics()["relative"] == 0.0
    assert found.elements == 20
    assert measure(reference, got, ~judged, is_logits=False).metrics()["max_abs"] == 98.0


def test_the_worst_vector_is_named_by_text_and_token() -> None:
    reference = np.ones((2, 3, 4), np.float32)
    got = reference.copy()
    got[1, 2] *= 3
    worst = measure(reference, got, _all(reference), is_logits=False).worst
    assert worst is not None
    assert (worst.row, worst.token) == (1, 2)
    assert worst.relative == pytest.approx(2.0)


def test_divergence_and_agreement_of_distributions_by_hand() -> None:
    reference = np.log(np.array([[0.5, 0.3, 0.2]]))
    got = np.log(np.array([[0.2, 0.3, 0.5]])) + 7.0  # softmax does not see a constant
    metrics = measure(reference, got, _all(reference), is_logits=True).metrics()
    assert metrics["kl"] == pytest.approx(0.5 * math.log(2.5) - 0.2 * math.log(2.5))
    assert metrics["top_1"] == 0.0
    assert metrics["top_5"] is None  # there are only three


def test_top_5_counts_what_is_shared() -> None:
    reference = np.arange(10.0)[None]
    got = reference.copy()
    got[0, 9] = -1.0
    assert measure(reference, got, _all(reference), is_logits=True).metrics()["top_5"] == 0.8


def test_distributions_over_tokens_leave_padding_out() -> None:
    reference = np.array([[1.0, 2.0, 50.0]])
    got = np.array([[1.0, 2.0, -50.0]])
    judged = np.array([[True, True, False]])
    metrics = measure(reference, got, judged, is_logits=True).metrics()
    assert metrics["kl"] == 0.0
    assert metrics["top_1"] == 1.0


def test_distributions_below_zero_are_shifted_by_their_own_largest() -> None:
    reference = np.array([[-900.0, -901.0]])
    got = np.array([[-901.0, -900.0]])
    kl = measure(reference, got, _all(reference), is_logits=True).metrics()["kl"]
    assert kl == pytest.approx((math.e - 1) / (math.e + 1))


def test_top_5_is_of_distributions_over_more_than_five_tokens() -> None:
    judged = np.arange(12) < np.array([[3], [5], [6]])
    reference = np.random.default_rng(0).standard_normal((3, 12))
    got = reference + np.where(judged, 0.0, np.random.default_rng(1).standard_normal((3, 12)))
    found = measure(reference, got, judged, is_logits=True)
    assert {k: values.tolist() for k, values in found.top.items()} == {1: [1.0] * 3, 5: [1.0]}


def test_what_the_reference_itself_cannot_answer_is_no_fault_of_the_candidate() -> None:
    answer = np.array([[1.0, np.nan]], np.float32)
    found = measure(answer, answer, np.array([[True, False]]), is_logits=False)
    assert (found.fault, found.elements, found.relative) == (None, 1, 0.0)


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        (np.zeros((1, 3), np.float32), r"shape \[1, 3\] instead of \[1, 2\]"),
        (np.array([[1.0, np.nan]], np.float32), r"NaN at \[0, 1\], 1 of 2 numbers"),
        (np.array([[np.inf, 1.0]], np.float32), r"infinity at \[0, 0\]"),
        (np.array([["a", "b"]]), "dtype <U1 is no number"),
        (np.ones((1, 2), np.int64), "dtype int64 instead of float32"),
    ],
)
def test_faults_are_told_and_never_measured(got: np.ndarray, reason: str) -> None:
    reference = np.ones((1, 2), np.float32)
    found = measure(reference, got, _all(reference), is_logits=False)
    assert found.fault is not None

    assert re.search(reason, found.fault)
    assert set(found.metrics().values()) == {None}


def test_nan_at_padding_is_a_fault_too() -> None:
    reference = np.ones((1, 2), np.float32)
    judged = np.array([[True, False]])
    found = measure(reference, np.array([[1.0, np.nan]], np.float32), judged, is_logits=False)
    assert found.fault == "NaN at [0, 1], 1 of 2 numbers are not finite"


def test_the_histogram_counts_every_number_once() -> None:
    reference = np.zeros((1, 4))
    got = np.array([[0.0, 1e-30, 2e-3, 1e9]])
    found = measure(reference, got, _all(reference), is_logits=False)
    assert found.exact == 1
    assert found.histogram.sum() == 3
    assert found.histogram[0] == found.histogram[-1] == 1  # what is beyond the edges
    inside = int(np.searchsorted(EDGES, math.log10(2e-3))) - 1
    assert found.histogram[inside] == 1


def test_together_takes_the_worst_case_and_the_mean_of_averages() -> None:
    good = _of([[1.0, 0.0]], [[1.0, 0.0]])
    bad = _of([[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    metrics = together([good, bad])
    assert metrics["relative"] == pytest.approx(1.0)
    assert metrics["cosine_min"] == 0.0
    assert metrics["cosine_mean"] == pytest.approx((1.0 + 0.5) / 2)  # cases weigh the same
    assert together([]) == dict.fromkeys(METRICS)


def test_a_score_near_zero_is_measured_by_the_usual_size_of_scores() -> None:
    parts = [_of([[1e-3]], [[1.1e-2]]), _of([[2.0]], [[2.0]])]
    assert parts[0].metrics()["relative"] == pytest.approx(10)
    found = scaled(parts, scale_of(parts))
    assert found[0].metrics()["relative"] == pytest.approx(1e-2 / math.sqrt((4 + 1e-6) / 2))
    assert found[0].metrics()["cosine_min"] is None
    assert scale_of([_of([[1.0, 0.0]], [[1.0, 0.0]])]) == 0.0


def test_broken_names_metric_value_and_bound() -> None:
    metrics = {"relative": 0.1, "cosine_min": 0.5, "kl": None}
    assert broken(metrics, {"relative": 0.1, "cosine_min": 0.5, "kl": 0.0}) == []
    assert broken(metrics, {"relative": 0.01, "cosine_min": 0.9}) == [
        "relative 0.1 exceeds 0.01",
        "cosine_min 0.5 is below 0.9",
    ]
    assert broken({"relative": math.nan}, {"relative": 1.0}) == ["relative nan exceeds 1"]


def _all(array: np.ndarray) -> np.ndarray:
    return np.ones(array.shape, bool)


def _of(reference: list[list[float]], got: list[list[float]]):  # type: ignore[no-untyped-def]
    wanted = np.array(reference)
    return measure(wanted, np.array(got), _all(wanted), is_logits=False)
