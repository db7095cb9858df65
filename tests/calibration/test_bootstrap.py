from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.metrics.bootstrap import Interval, interval, resamples


def test_draws_are_seeded_with_replacement_and_as_long_as_the_texts():
    draws = resamples(50, seed=3, rounds=200)
    assert draws.shape == (200, 50)
    assert (draws.min(), draws.max()) == (0, 49)
    np.testing.assert_array_equal(draws, resamples(50, seed=3, rounds=200))
    assert not np.array_equal(draws, resamples(50, seed=4, rounds=200))
    # 1 - 1/e of the texts occur in a draw, on average
    occurring = np.mean([len(set(draw)) for draw in draws]) / 50
    assert occurring == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    found = interval(values[resamples(400, rounds=2000)].mean(axis=1))
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_interval_holds_the_middle():
    figures = np.arange(1001, dtype=np.float64)
    found = interval(figures)
    assert (found.low, found.high) == pytest.approx((25.0, 975.0))
    found = interval(figures, confidence=0.5)
    assert (found.low, found.high) == pytest.approx((250.0, 750.0))


def test_one_text_has_no_width():
    assert interval(np.ones(1)[resamples(1)].mean(axis=1)) == Interval(1.0, 1.0)
