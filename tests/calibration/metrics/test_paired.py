from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.metrics.accuracy import ACCURACY
from fuselage.calibration.metrics.paired import drop_interval
from fuselage.calibration.metrics.spearman import SPEARMAN


def rows(right):
    return np.asarray(right, float)[:, None]


def test_same_seed_same_interval():
    reference, candidate = np.random.default_rng(1).random((2, 80, 2))
    first = drop_interval(SPEARMAN, reference, candidate)
    assert first == drop_interval(SPEARMAN, reference, candidate)
    assert first != drop_interval(SPEARMAN, reference, candidate, seed=1000)


def test_same_answers_leave_no_doubt():
    right = rows(np.random.default_rng(1).random(80) < 0.5)
    found = drop_interval(ACCURACY, right, right)
    assert (found.low, found.high) == (0.0, 0.0)


def test_interval_of_a_difference_of_means_is_the_normal_one():
    rng = np.random.default_rng(2)
    reference, candidate = rng.random(2000) < 0.9, rng.random(2000) < 0.85
    difference = reference.astype(float) - candidate
    half = 1.96 * difference.std() / np.sqrt(2000)
    found = drop_interval(ACCURACY, rows(reference), rows(candidate))
    assert found.low == pytest.approx(difference.mean() - half, abs=2e-3)
    assert found.high == pytest.approx(difference.mean() + half, abs=2e-3)


def test_pairing_makes_the_interval_narrow():
    rng = np.random.default_rng(3)
    gold = rng.normal(size=300)
    answers = gold + rng.normal(size=300)
    close = answers + 0.02 * rng.normal(size=300)
    other = gold + rng.normal(size=300)
    paired = drop_interval(SPEARMAN, np.c_[answers, gold], np.c_[close, gold])
    apart = drop_interval(SPEARMAN, np.c_[answers, gold], np.c_[other, gold])
    assert paired.high - paired.low < 0.1 * (apart.high - apart.low)
    assert paired.low < 0.002
    assert paired.high > -0.002
