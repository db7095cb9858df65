from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.ranges.estimators import ESTIMATORS, Percentile
from fuselage.calibration.statistics.histogram import Histogram
from fuselage.errors import CalibrationError


def amax(name, values):
    values = np.asarray(values, np.float32)
    absmax = float(np.abs(values).max())
    return ESTIMATORS[name].amax(Histogram.of(values, absmax), absmax)


@pytest.fixture
def normal():
    return np.random.default_rng(0).normal(0, 1, 200_000)


@pytest.fixture
def with_outlier(normal):
    return np.append(normal, 60.0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_dead_tensor_has_no_range(name):
    assert amax(name, np.zeros(100)) == 0.0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_range_is_within_what_was_seen(name, normal):
    assert 0 < amax(name, normal) <= np.abs(normal).max() * (1 + 1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_range_scales_with_the_tensor(name, normal):
    assert amax(name, normal * 8) == pytest.approx(8 * amax(name, normal), rel=1e-5)


def test_absolute_maximum_keeps_the_outlier(with_outlier):
    assert amax("absmax", with_outlier) == 60.0


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_others_cut_one_outlier_in_two_hundred_thousand(name, with_outlier):
    assert 3.0 < amax(name, with_outlier) < 30.0


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.99])
def test_percentile_is_that_of_the_elements(normal, percent):
    histogram = Histogram.of(normal.astype(np.float32), float(np.abs(normal).max()))
    expected = np.percentile(np.abs(normal), percent)
    got = Percentile(percent).amax(histogram, float(np.abs(normal).max()))
    assert expected <= got + 1e-6
    assert got - expected < 2 * histogram.width + 0.01


def test_hundred_percent_is_the_maximum(normal):
    absmax = float(np.abs(normal).max())
    histogram = Histogram.of(normal.astype(np.float32), absmax)
    assert Percentile(100).amax(histogram, absmax) == absmax


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_percentile_out_of_range_is_refused(percent):
    with pytest.raises(CalibrationError, match="expected more than 0 and at most 100"):
        Percentile(percent)


def test_squared_error_is_the_least_of_all_ranges(with_outlier):
    def error(top):
        step = top / 127
        rounded = np.clip(np.rint(with_outlier / step), -127, 127) * step
        return np.square(rounded - with_outlier).mean()

    best = error(amax("mse", with_outlier))
    assert best <= 1.02 * min(error(top) for top in np.linspace(1, 60, 300))


def test_uniform_tensor_is_not_clipped():
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    for name in ("mse", "entropy"):
        assert amax(name, values) > 0.98
