from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.calibration.ranges.smoothing import smooth
from fuselage.passes.qdq.params import QMAX


def extrema(seed, channels=24):
    rng = np.random.default_rng(seed)
    middle, reach = rng.normal(0, 2, channels), np.exp(rng.normal(0, 2, channels))
    weight = np.exp(rng.normal(0, 1, channels))
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
    found = smooth(low, high, np.ones(4, np.float32), 1.0, shift="uniform")
    assert len(set(found.steps.tolist())) == 1
    assert 80 < found.steps[0] <= QMAX
    plain = smooth(low, high, np.ones(4, np.float32), 1.0, shift="none")
    assert found.amax < 0.6 * plain.amax


def test_alpha_of_one_gives_all_channels_the_same_reach():
    low, high, weight = extrema(1)
    found = smooth(low, high, weight, 1.0, shift="none")
    reach = np.maximum(-low, high) / found.scale
    np.testing.assert_allclose(reach, reach[0], rtol=2e-3)


def test_alpha_of_zero_leaves_it_to_the_weights():
    low, high, weight = extrema(1)
    found = smooth(low, high, weight, 0.0, shift="none")
    np.testing.assert_allclose(found.scale * weight, (found.scale * weight)[0], rtol=2e-3)


def test_tied_channels_get_the_scale_of_the_largest():
    low, high = np.array([-1, -1, -9, -2], np.float32), np.array([1, 1, 9, 2], np.float32)
    tied = np.array([0, 1, 0, 1])
    found = smooth(low, high, np.ones(4, np.float32), 1.0, shift="none", tied=tied)
    assert found.scale[0] == found.scale[2]
    assert found.scale[1] == found.scale[3]
    assert found.scale[0] / found.scale[1] == pytest.approx(4.5, rel=1e-3)


@pytest.mark.parametrize("dead", [slice(0, 1), slice(0, 3), slice(0, 4)])
def test_channels_that_were_never_used_do_not_get_a_scale_near_zero(dead):
    low, high = -np.array([1, 2, 1, 2], np.float32), np.array([1, 2, 1, 2], np.float32)
    low[dead] = high[dead] = 0.0
    found = smooth(low, high, np.ones(4, np.float32), 0.9, shift="uniform")
    assert found.scale.max() / found.scale.min() < 1e5
    assert np.isfinite(found.transform.scale).all()


def test_scales_have_four_digits():
    low, high, weight = extrema(1)
    for value in smooth(low, high, weight, 0.9, shift="none").scale:
        assert float(f"{value:.4g}") == pytest.approx(float(value), rel=1e-6)
