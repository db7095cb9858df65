from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fuselage.calibration.ranges.search import ALPHAS, Choice, Edge, choose, edges_of
from fuselage.calibration.statistics.profile import TensorProfile
from fuselage.calibration.statistics.reservoir import row_keys
from fuselage.passes.qdq.policy import QuantPolicy
from fuselage.passes.qdq.sites import Site


def profile(rows):
    numbers = np.arange(len(rows))
    return TensorProfile.of("x", rows, row_keys(numbers, numbers * 0, 0), 256)


def edge(weight, shift="none"):
    return Edge(name="x", site=Site(shift=shift), weight=weight.astype(np.float32))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_edges_hold_the_weights_of_all_their_readers(graph):
    found = list(edges_of(graph.model, QuantPolicy().plan(graph.model)))
    assert [(item.name, item.site.name, item.weight.shape) for item in found] == [
        ("normed", "norm", (32, 48)),
        ("active", "explicit", (48, 32)),
    ]
    assert not any(item.biased for item in found)


def test_a_mean_is_kept_where_a_bias_or_a_shift_takes_it(rng):
    rows = rng.uniform(1, 2, (200, 32)).astype(np.float32)
    for shift, biased, kept in (("none", True, True), ("none", False, False), ("channel", 0, True)):
        reader = replace(edge(rng.normal(size=(32, 16)), shift), biased=bool(biased))
        seen = profile(rows)
        moments = reader.moments(seen)
        mean = moments.mean
        assert reader.smoothing(seen, moments, 0.9).mean is mean
        assert mean.all() if kept else not mean.any()


def test_nothing_is_clipped_where_it_does_not_help(rng):
    rows = rng.uniform(-1, 1, (400, 32)).astype(np.float32)
    choice = choose(edge(rng.normal(size=(32, 16))), profile(rows[:200]), rows[200:])
    assert (choice.estimator, choice.part) == ("absmax", 1.0)
    assert choice.alpha in ALPHAS


def test_an_outlier_that_no_other_text_has_is_clipped(rng):
    """One row reaches a hundred times further in all channels: no scale can help, a clip can."""
    rows = rng.normal(size=(600, 32)).astype(np.float32)
    rows[7] *= 100
    whole = edge(rng.normal(size=(32, 16)))
    seen = profile(rows[:300])
    choice = choose(whole, seen, rows[300:])
    assert choice.estimator in ("mse", "percentile", "entropy")
    assert choice.apply(whole, seen).amax < 0.8 * Choice(alpha=choice.alpha).apply(whole, seen).amax


@pytest.mark.parametrize("shift", ["none", "channel", "uniform"])
def test_clipping_keeps_the_near_end_and_whole_steps(rng, shift):
    rows = np.abs(rng.normal(size=(300, 8))).astype(np.float32) - np.float32(0.1)
    reader, seen = edge(rng.normal(size=(8, 4)), shift), profile(rows)
    whole = reader.smoothing(seen, reader.moments(seen), 1.0)
    half = whole.clipped(0.5)
    assert half.amax == pytest.approx(whole.amax / 2)
    np.testing.assert_array_equal(half.scale, whole.scale)
    if shift == "uniform":  # the end at zero stays in range
        assert (half.transform.shift[0] - half.amax) <= 1e-6 + (rows / whole.scale).min() * 0.9
    if shift == "channel":  # each channel keeps its middle
        step = float(half.params.scale)
        np.testing.assert_allclose(half.transform.shift, whole.transform.shift, atol=step)
