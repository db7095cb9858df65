from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.calibration.statistics.reservoir import LARGEST_SHARE, Reservoir, row_keys


def tokens(count, seed=0):
    """Rows and keys of texts of four tokens."""
    rows = np.random.default_rng(3).normal(size=(count, 6)).astype(np.float32)
    numbers = np.arange(count)
    return rows, row_keys(numbers // 4, numbers % 4, seed)


def cut(rows, keys, *edges):
    bounds = [0, *edges, len(rows)]
    return [
        Reservoir.of(rows[start:stop], keys[start:stop], 16)
        for start, stop in itertools.pairwise(bounds)
    ]


def test_merge_is_associative_commutative_and_equals_one_pass():
    rows, keys = tokens(300)
    a, b, c = cut(rows, keys, 10, 140)
    whole = Reservoir.of(rows, keys, 16)
    assert a.merge(b).merge(c) == a.merge(b.merge(c)) == c.merge(a).merge(b) == whole


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 199), max_size=8, unique=True))
@settings(max_examples=50)
def test_sample_does_not_depend_on_the_order_of_rows_or_parts(seed, edges):
    rows, keys = tokens(200)
    rows[::7] = 50.0  # more rows of one size than are kept
    rng = np.random.default_rng(seed)
    order = rng.permutation(200)
    parts = cut(rows[order], keys[order], *sorted(edges))
    rng.shuffle(parts)
    assert functools.reduce(Reservoir.merge, parts) == Reservoir.of(rows, keys, 16)


def test_memory_does_not_depend_on_how_much_was_seen():
    for count in (300, 3000):
        kept = Reservoir.of(*tokens(count), 16)
        assert kept.rows.shape == (16, 6)
        assert kept.large_rows.shape == (16 // LARGEST_SHARE, 6)


def test_largest_row_is_always_there():
    rows, keys = tokens(300)
    rows[77, 2] = -50.0
    parts = cut(rows, keys, 10, 140)
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.large_rows[0, 2] == -50.0
    assert merged.large_keys[0] == keys[77]
    assert (merged.sample[:, 2] == -50.0).sum() == 1


def test_sample_holds_each_row_once():
    rows, keys = tokens(20)
    kept = Reservoir.of(rows, keys, 32)
    assert len(kept.sample) == 20


def test_seed_draws_another_sample_and_the_same_seed_the_same():
    first, again, other = (Reservoir.of(*tokens(300, seed), 16) for seed in (0, 0, 1))
    assert first == again
    assert not np.array_equal(first.rows, other.rows)
    assert hash(first) == hash(again)


def test_every_token_has_its_own_key_and_all_are_drawn_alike():
    numbers = np.arange(40_000)
    keys = row_keys(numbers // 100, numbers % 100, 7)
    assert len(np.unique(keys)) == len(keys)
    assert keys.mean() / 2**64 == pytest.approx(0.5, abs=0.01)


def test_leaving_out_what_would_be_dropped_changes_nothing():
    rows, keys = tokens(300)
    first = Reservoir.of(rows[:200], keys[:200], 16)
    plain = Reservoir.of(rows[200:], keys[200:], 16)
    short = Reservoir.of(rows[200:], keys[200:], 16, first)
    assert len(short.rows) < len(plain.rows)
    assert first.merge(short) == first.merge(plain)
