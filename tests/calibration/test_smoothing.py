from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.calibration.ranges.smoothing import Moments, smooth
from fuselage.passes.qdq.params import QMAX

ONE = np.ones((4, 1), np.float32)


def extrema(seed, channels=24):
    rng = np.random.default_rng(seed)
    middle, reach = rng.normal(0, 2, channels), np.exp(rng.normal(0, 2, channels))
    weight = np.exp(rng.normal(0, 1, (channels, 1)))
    ends = (middle - reach, middle + reach, weight)
    return [array.astype(np.float32) for array in ends]


@settings(max_examples=40)
@given(st.integers(0, 500), st.sampled_from([0.5, 0.9, 1.0]), st.sampled_from(["channel", "none"]))
def test_everything_seen_stays_in_range_and_zero_is_a_whole_step(seed, alpha, shift):
    low, high, weight = extrema(seed)
    found = smooth(low, high, weight, alpha, shift=shift)
    change, step = found.transform, float(found.params.scale)
    for end in (low, high):
        assert (np.abs(end / change.scale - change.shift) <= (QMAX + 1e-3) * step).all()
    np.testing.assert_allclose(change.shift / step, found.steps, atol=1e-4)
    assert found.steps.any() == (shift == "channel")


def test_uniform_shift_is_one_zero_point_inside_the_range():
    low, high = np.full(4, -0.17, np.float32), np.array([1, 2, 4, 8], np.float32)
    found = smooth(low, high, ONE, 1.0, shift="uniform")
    assert len(set(found.steps.tolist())) == 1
    assert 80 < found.steps[0] <= QMAX
    plain = smooth(low, high, ONE, 1.0, shift="none")
    assert found.amax < 0.6 * plain.amax


def test_alpha_of_one_gives_channels_the_same_reach_but_those_below_the_median():
    low, high, weight = extrema(1)
    found = smooth(low, high, weight, 1.0, shift="none")
    seen = np.maximum(-low, high)
    reach, wide = seen / found.scale, seen > np.median(seen)
    np.testing.assert_allclose(reach[wide], found.amax, rtol=2e-3)
    np.testing.assert_allclose(found.scale[~wide], found.scale[~wide][0])
    assert (reach[~wide] < found.amax).all()


def test_alpha_of_zero_leaves_it_to_the_weights():
    low, high, weight = extrema(1)
    found = smooth(low, high, weight, 0.0, shift="none")
    np.testing.assert_allclose(
        found.scale * weight[:, 0], (found.scale * weight[:, 0])[0], rtol=2e-3
    )


@pytest.mark.parametrize("raised", [False, True])
def test_tied_channels_get_the_scale_of_the_largest(raised):
    high, tied = np.array([1, 1, 9, 2, 2, 2], np.float32), np.array([0, 1, 0, 1, 1, 1])
    rng = np.random.default_rng(0)
    weight = np.ones((6, 1), np.float32)
    moments = Moments(mean=high, variance=rng.uniform(0, 0.1, 6)) if raised else None
    found = smooth(-high, high, weight, 1.0, shift="none", moments=moments, tied=tied)
    assert found.scale[0] == found.scale[2]
    assert found.scale[1] == found.scale[3]
    assert found.scale[0] / found.scale[1] == pytest.approx(4.5, rel=1e-3)


@pytest.mark.parametrize("dead", [slice(0, 1), slice(0, 3), slice(0, 4)])
def test_channels_that_were_never_used_do_not_get_a_scale_near_zero(dead):
    low, high = -np.array([1, 2, 1, 2], np.float32), np.array([1, 2, 1, 2], np.float32)
    low[dead] = high[dead] = 0.0
    found = smooth(low, high, ONE, 0.9, shift="uniform")
    assert found.scale.max() / found.scale.min() < 1e5
    assert np.isfinite(found.transform.scale).all()


def test_scales_have_four_digits():
    low, high, weight = extrema(1)
    for value in smooth(low, high, weight, 0.9, shift="none").scale:
        assert float(f"{value:.4g}") == pytest.approx(float(value), rel=1e-6)


@pytest.fixture
def outlier():
    """A channel that one token in a hundred uses, and far, among ordinary ones."""
    rng = np.random.default_rng(5)
    rows = rng.normal(0, 0.3, (800, 64)).astype(np.float32)
    rows[::100, 0] = 20
    return rows, rng.normal(0, 1, (64, 32)).astype(np.float32)


def noise(rows, weight, change):
    """Energy of the answer's error when both operands are rounded and the mean is kept."""
    step, scaled = float(change.params.scale), weight * change.scale[:, None]
    steps = np.abs(scaled).max(axis=0) / QMAX
    error = np.rint(scaled / steps) * steps - scaled
    x = rows / change.scale
    codes = np.clip(np.rint(x / step), -QMAX, QMAX) * step
    return np.square((codes - x) @ scaled + (x - change.mean / change.scale) @ error).sum()


def test_scales_are_raised_where_that_costs_the_weights_nothing(outlier):
    rows, weight = outlier
    moments = Moments.of(rows, weight, centred=True)
    ends = rows.min(axis=0), rows.max(axis=0)
    plain = smooth(*ends, weight, 1.0, shift="none")
    raised = smooth(*ends, weight, 1.0, shift="none", moments=moments)
    ratio = raised.scale / raised.scale[0] / (plain.scale / plain.scale[0])
    assert (ratio > 0.999).all()
    assert np.median(ratio) > 1.3
    largest = [
        np.abs(weight * (change.scale / change.scale[0])[:, None]).max(axis=0)
        for change in (plain, raised)
    ]
    np.testing.assert_allclose(*largest, rtol=2e-3)
    assert (np.abs(rows / raised.scale) <= raised.amax * 1.001).all()
    assert noise(rows, weight, raised) < 0.8 * noise(rows, weight, plain)


@pytest.mark.parametrize("dead", ["weight", "activation", "both"])
def test_channels_without_weight_or_use_are_not_raised_without_end(outlier, dead):
    rows, weight = outlier
    if dead != "activation":
        weight[3] = 0
    if dead != "weight":
        rows[:, 3] = 0
    moments = Moments.of(rows, weight, centred=True)
    found = smooth(rows.min(0), rows.max(0), weight, 0.9, shift="channel", moments=moments)
    assert np.isfinite(found.scale).all()
    assert found.scale.max() / found.scale.min() < 1e3


def test_each_token_counts_by_what_its_answer_makes_of_it():
    rows = np.array([[1, 0], [1, 0], [100, 100]], np.float32)
    found = Moments.of(rows, np.eye(2, dtype=np.float32), centred=True)
    np.testing.assert_allclose(found.mean, [1.0025, 0.0025], rtol=1e-3)
    np.testing.assert_allclose(found.variance, [0.245, 0.25], rtol=0.01)


def test_without_a_bias_to_keep_the_mean_zero_takes_its_place():
    rows = np.array([[1, 3], [1, -3]], np.float32)
    found = Moments.of(rows, np.eye(2, dtype=np.float32), centred=False)
    np.testing.assert_array_equal(found.mean, [0, 0])
    np.testing.assert_allclose(found.variance, [1, 9])


def test_rows_that_are_all_zero_have_moments():
    found = Moments.of(np.zeros((4, 2), np.float32), np.eye(2, dtype=np.float32), centred=True)
    assert not found.mean.any()
    assert not found.variance.any()
