from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fuselage.calibration.statistics.extrema import TensorStatistics
from fuselage.errors import CalibrationError

parts = st.lists(
    hnp.arrays(np.float32, st.integers(1, 8), elements=st.floats(-1e6, 1e6, width=32)),
    min_size=3,
    max_size=3,
)


@given(parts)
def test_merge_is_associative_commutative_and_equals_one_pass(arrays):
    a, b, c = (TensorStatistics.of("t", array) for array in arrays)
    whole = TensorStatistics.of("t", np.concatenate(arrays))
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == c.merge(a).merge(b) == whole
    assert whole.absmax == np.abs(np.concatenate(arrays)).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_counted_and_named(bad):
    values = np.ones((2, 3), np.float32)
    values[0, 1] = bad
    with pytest.raises(CalibrationError, match="tensor 'gelu': 1 of 6 activations are NaN or inf"):
        TensorStatistics.of("gelu", values)


def test_empty_tensor_is_refused():
    with pytest.raises(CalibrationError, match="expected values"):
        TensorStatistics.of("t", np.empty((0, 3), np.float32))
