from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.calibration.statistics.profile import TensorProfile
from fuselage.calibration.statistics.profile_arrays import ARRAYS, arrays_of, profile_of
from fuselage.calibration.statistics.reservoir import row_keys
from fuselage.errors import CalibrationError

LENGTH, CHANNELS, CAPACITY = 3, 4, 8


def profile(values, texts, ids, beside=None):
    """Of texts of three tokens, numbered."""
    keys = row_keys(np.repeat(texts, LENGTH), np.tile(np.arange(LENGTH), len(texts)), 5)
    return TensorProfile.of("x", values, keys, CAPACITY, beside, ids)


@st.composite
def corpora(draw):
    """Activations of a few texts, with ties and scales far apart, and where to cut them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(3, 12))
    values = rng.normal(size=(count, LENGTH, CHANNELS)) * 10.0 ** rng.integers(-6, 6, (count, 1, 1))
    if draw(st.booleans()):
        values = np.round(np.clip(values, -2, 2))
    cuts = draw(st.lists(st.integers(1, count - 1), min_size=2, max_size=2, unique=True))
    return values.astype(np.float32), rng.integers(0, 9, (count, LENGTH)), sorted(cuts)


def parts_of(corpus):
    values, ids, cuts = corpus
    edges = [0, *cuts, len(values)]
    return [
        profile(values[start:stop], np.arange(start, stop), ids[start:stop])
        for start, stop in itertools.pairwise(edges)
    ]


@given(corpora())
@settings(max_examples=50)
def test_merged_parts_equal_one_pass_in_every_order_and_grouping(corpus):
    values, ids, _ = corpus
    whole = profile(values, np.arange(len(values)), ids)
    a, b, c = parts_of(corpus)
    assert a.merge(b.merge(c)) == whole
    for order in itertools.permutations((a, b, c)):
        assert functools.reduce(TensorProfile.merge, order) == whole
    assert whole.statistics.count == values.size
    assert abs(whole.peak.value) == whole.statistics.absmax == np.abs(values).max()


@given(corpora())
@settings(max_examples=50)
def test_batches_looked_at_beside_what_is_there_lose_nothing(corpus):
    values, ids, cuts = corpus
    found = None
    for start, stop in itertools.pairwise([0, *cuts, len(values)]):
        seen = profile(values[start:stop], np.arange(start, stop), ids[start:stop], found)
        found = seen if found is None else found.merge(seen)
    assert found == profile(values, np.arange(len(values)), ids)


@given(corpora())
@settings(max_examples=25)
def test_profile_survives_its_arrays(corpus):
    for part in parts_of(corpus):
        arrays = arrays_of(part)
        assert tuple(arrays) == ARRAYS
        assert profile_of(arrays) == part
        assert all(array.dtype.kind in "iuf" for array in arrays.values())


@pytest.mark.parametrize("name", ARRAYS)
def test_each_array_counts(name):
    values = np.random.default_rng(0).normal(size=(2, LENGTH, CHANNELS)).astype(np.float32)
    one = profile(values, np.arange(2), np.zeros((2, LENGTH), np.int64))
    arrays = arrays_of(one)
    changed = arrays[name].copy()
    changed.flat[-1] += 0 if name == "real" else 1
    if name == "real":
        changed[0] *= 2  # a smaller minimum
    assert profile_of(arrays | {name: changed}) != one
    with pytest.raises(KeyError, match=name):
        profile_of({other: array for other, array in arrays.items() if other != name})


def test_activations_that_are_not_finite_are_refused():
    values = np.zeros((1, LENGTH, CHANNELS), np.float32)
    values[0, 1, 2] = np.nan
    with pytest.raises(CalibrationError, match="tensor 'x': 1 of 12 activations are NaN"):
        profile(values, np.arange(1), None)
