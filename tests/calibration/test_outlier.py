from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselage.calibration.run import calibrate
from fuselage.calibration.statistics.outlier import Outlier, Peak
from fuselage.calibration.text.data import CalibrationSet


def reach(values):
    return np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)


def peak(values, ids=None):
    values = np.asarray(values, np.float32)
    return Peak.of(values, reach(values), None if ids is None else np.asarray(ids))


@st.composite
def batches(draw):
    """Activations of few different numbers, so that the largest one ties nearly always."""
    texts, length = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (texts, length, 3)).astype(np.float32)
    return values, rng.integers(0, 3, (texts, length))


def rank(values, ids, text, position, channel):
    value = values[text, position, channel]
    return (-abs(value), position, ids[text, position], channel, -value)


@given(batches())
def test_peak_is_the_first_of_the_largest_by_position_token_and_channel(batch):
    values, ids = batch
    magnitude, position, token, channel, value = min(
        rank(values, ids, *place) for place in np.ndindex(values.shape)
    )
    found = peak(values, ids)
    assert (found.position, found.token, found.channel) == (position, token, channel)
    assert (found.value, abs(found.value)) == (-value, -magnitude)


@given(st.lists(batches(), min_size=3, max_size=3))
def test_merge_does_not_depend_on_the_order(parts):
    peaks = [peak(*part) for part in parts]
    merged = {functools.reduce(Peak.merge, order) for order in itertools.permutations(peaks)}
    a, b, c = peaks
    assert merged == {a.merge(b.merge(c))}


def test_rows_that_are_flattened_tokens_keep_their_place():
    values = np.zeros((6, 2), np.float32)
    values[4, 1] = -3
    found = peak(values, [[7, 8, 9], [7, 5, 9]])
    assert (found.value, found.channel, found.token, found.position) == (-3, 1, 5, 1)


@pytest.mark.parametrize("ids", [None, [[7, 8, 9], [7, 5, 9]]])
def test_rows_that_are_no_tokens_have_a_channel_only(ids):
    found = Outlier.of(peak([[0, 0, 9], [1, 0, 0]], ids), np.array([1, 0, 9]))
    assert found == Outlier(value=9, channel=2, median=1)
    assert (found.token, found.position) == (None, None)


def test_calibration_names_value_channel_token_and_position(graph, tokenize):
    texts = ["a", "ok then", "the quick brown fox", "x" * 40, "why?"]
    table = calibrate(graph, CalibrationSet.from_texts(texts), tokenize)
    weights = {name: v.const_value.numpy() for name, v in graph.model.graph.initializers.items()}
    rows = {}
    for row in tokenize(texts):
        x = weights["table"][row.ids].astype(np.float64)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        rows |= {
            (position, token): values
            for position, (token, values) in enumerate(
                zip(row.ids, x * weights["gamma"] + weights["beta"], strict=True)
            )
        }
    (position, token) = min(rows, key=lambda at: (-np.abs(rows[at]).max(), at))
    values = rows[position, token]
    outlier = table.ranges["normed"].outlier
    assert (outlier.position, outlier.token) == (position, token)
    assert outlier.channel == np.abs(values).argmax() == 5
    assert outlier.value == pytest.approx(values[5], rel=1e-5)
    assert abs(outlier.value) == table.ranges["normed"].statistics.absmax
    reaches = np.abs(list(rows.values())).max(axis=0)
    assert outlier.median == pytest.approx(np.median(reaches), rel=1e-5)
    assert abs(outlier.value) > 4 * outlier.median
