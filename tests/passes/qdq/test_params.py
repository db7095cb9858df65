from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fuselage.errors import CalibrationError
from fuselage.passes.qdq.params import (
    FP8,
    SCALE_FLOOR,
    QuantParams,
    dequantize,
    quantize,
    weight_params,
)

amax_values = st.floats(1e-4, 1e4)
unit = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-1, 1, width=32)
)


@given(unit, amax_values)
def test_error_is_at_most_half_a_step_within_the_range(x, amax):
    params = QuantParams.symmetric(amax)
    real = (x * np.float32(amax)).astype(np.float32)
    error = np.abs(real - dequantize(quantize(real, params), params))
    assert error.max() <= float(params.scale) * 0.5 * (1 + 1e-4)


@given(unit, amax_values)
def test_beyond_the_range_saturates_symmetrically(x, amax):
    params = QuantParams.symmetric(amax)
    real = (x * np.float32(amax) * 10).astype(np.float32)
    codes = quantize(real, params)
    assert codes.min() >= -127
    np.testing.assert_array_equal(quantize(-real, params), -codes)


@given(amax_values)
def test_zero_and_the_range_are_exact(amax):
    params = QuantParams.symmetric(amax)
    codes = quantize(np.array([0.0, amax, -amax], np.float32), params)
    assert codes.tolist() == [0, 127, -127]
    assert dequantize(codes, params)[0] == 0.0


def test_ties_round_to_even_as_in_onnx():
    params = QuantParams.symmetric(127.0)
    assert quantize(np.array([0.5, 1.5, 2.5, -0.5], np.float32), params).tolist() == [0, 2, 2, 0]


def test_dead_tensor_gets_a_scale_that_float16_can_hold():
    params = QuantParams.symmetric(0.0)
    assert float(params.scale) == SCALE_FLOOR
    assert np.float16(params.scale) > 0
    assert dequantize(quantize(np.zeros(3, np.float32), params), params).tolist() == [0, 0, 0]


@pytest.mark.parametrize("amax", [-1.0, np.nan, np.inf])
def test_unusable_range_is_refused(amax):
    with pytest.raises(CalibrationError, match="expected finite magnitudes of at least 0"):
        QuantParams.symmetric(amax)


@pytest.mark.parametrize(
    ("scale", "axis", "reason"),
    [
        (np.float64(1), None, "float32 scale"),
        (np.float32(0), None, "positive finite"),
        (np.float32(np.nan), None, "positive finite"),
        (np.ones(2, np.float32), None, "rank 0"),
        (np.float32(1), 1, "rank 1"),
    ],
)
def test_foreign_parameters_are_refused(scale, axis, reason):
    with pytest.raises(CalibrationError, match=reason):
        QuantParams(np.asarray(scale), axis)


def test_zero_points_have_the_type_of_the_codes_and_the_shape_of_the_scale():
    whole, along = QuantParams.symmetric(1.0), QuantParams.symmetric(np.ones(3), 1, FP8)
    assert (whole.zero_point.dtype, whole.zero_point.shape) == (np.int8, ())
    assert along.zero_point.dtype == ml_dtypes.float8_e4m3fn
    assert along.zero_point.astype(np.float32).tolist() == [0.0, 0.0, 0.0]


def test_fp8_rounds_as_e4m3_does():
    """Every code is its own value; ties go to the even code; beyond 448 saturates, not NaN."""
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    values = codes.astype(np.float32)
    values = values[np.isfinite(values)]
    assert values.size == 254
    assert values.max() == 448
    unit = QuantParams(np.asarray(1, np.float32), scheme=FP8)
    np.testing.assert_array_equal(quantize(values, unit).astype(np.float32), values)
    between = np.array([17.0, 19.0, 449.0, 1e6, -1e6, 2.0**-10, 3 * 2.0**-10], np.float32)
    expected = [16.0, 20.0, 448.0, 448.0, -448.0, 0.0, 2.0**-8]
    assert dequantize(quantize(between, unit), unit).tolist() == expected


@given(st.floats(1e-3, 1e4), st.integers(0, 2**32 - 1))
def test_fp8_is_within_a_sixteenth_of_the_number_or_half_a_step_of_zero(amax, seed):
    real = np.random.default_rng(seed).uniform(-amax, amax, 64).astype(np.float32)
    params = QuantParams.symmetric(amax, scheme=FP8)
    error = np.abs(real - dequantize(quantize(real, params), params))
    least = params.scale * 2.0**-10  # half the distance of subnormal codes
    assert (error <= np.maximum(np.abs(real) / 16, least) * 1.0001).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_get_one_scale_an_output_channel(axis):
    weight = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    weight[:, 2] = 0.0
    params = weight_params(weight, axis)
    expected = np.maximum(np.abs(weight).max(axis=1 - axis) / 127, SCALE_FLOOR)
    np.testing.assert_allclose(params.scale, expected, rtol=1e-6)
    assert params.axis == axis
    error = np.abs(weight - dequantize(quantize(weight, params), params)).max(axis=1 - axis)
    assert (error <= params.scale * 0.5001).all()


def test_nan_weight_is_refused():
    weight = np.ones((4, 4), np.float32)
    weight[1, 2] = np.nan
    with pytest.raises(CalibrationError, match="finite"):
        weight_params(weight, 1)


def test_equality_looks_at_values():
    assert QuantParams.symmetric(2.0) == QuantParams.symmetric(2.0)
    assert QuantParams.symmetric(2.0) != QuantParams.symmetric(3.0)
    assert len({QuantParams.symmetric(2.0), QuantParams.symmetric(2.0)}) == 1
