from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fuselage.calibration.statistics.histogram import BINS, Histogram

parts = st.lists(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e6, 1e6, width=32)),
    min_size=3,
    max_size=3,
)


def histogram(values):
    return Histogram.of(values, float(np.abs(values).max()))


@given(parts)
def test_merge_is_associative_commutative_and_equals_one_pass(arrays):
    a, b, c = map(histogram, arrays)
    whole = histogram(np.concatenate(arrays))
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == c.merge(a).merge(b) == whole
    assert whole.counts.sum() == sum(array.size for array in arrays)


def test_counts_are_those_of_numpy():
    values = np.random.default_rng(0).normal(0, 3, (50, 70)).astype(np.float32)
    found = histogram(values)
    expected, edges = np.histogram(np.abs(values), BINS, (0, 2.0**found.exponent))
    np.testing.assert_array_equal(found.counts, expected)
    np.testing.assert_allclose(found.edges, edges)
    assert 2.0 ** (found.exponent - 1) <= np.abs(values).max() < 2.0**found.exponent


def test_range_grows_by_any_power_of_two():
    small, large = histogram(np.float32([1e-20, 3e-20])), histogram(np.float32([3e4]))
    merged = small.merge(large)
    assert merged.counts[0] == 2
    assert merged.exponent == large.exponent


def test_zeros_and_the_largest_float_have_bins():
    dead = histogram(np.zeros(5, np.float32))
    huge = histogram(np.float32([3.4e38]))
    assert dead.counts[0] == 5
    assert dead.merge(huge).counts[[0, 2046]].tolist() == [5, 1]
    tiny = histogram(np.float32([1e-45]))
    assert tiny.counts.sum() == 1
