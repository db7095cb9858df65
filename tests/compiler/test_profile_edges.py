"""Bucket edges: against brute force, against equal buckets, and on lengths of real text."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselage.compiler.profiles.choice import MOST_BUCKETS, fitted, plan_shapes
from fuselage.compiler.profiles.edges import best_edges, padded_tokens
from fuselage.compiler.profiles.lengths import Lengths
from fuselage.errors import BuildError

histograms = st.dictionaries(st.integers(1, 12), st.integers(1, 50), min_size=1, max_size=8)


def sample(texts: int, seed: int = 0, longest: int = 512) -> Lengths:
    """Lengths as text has them: log-normal, median 32, sigma 0.8."""
    drawn = 32 * np.exp(0.8 * np.random.default_rng(seed).standard_normal(texts))
    lengths = np.clip(np.rint(drawn), 1, longest).astype(int)
    return Lengths(counts=dict(Counter(lengths.tolist())), source="sample")


def test_padding_counts_every_text_up_to_its_edge() -> None:
    assert padded_tokens({1: 2, 4: 1, 5: 3}, (4, 8)) == 2 * 4 + 4 + 3 * 8
    assert padded_tokens({}, (4,)) == 0


@given(histograms, st.integers(1, 5))
def test_no_choice_of_edges_pads_less(counts: dict[int, int], most: int) -> None:
    grid = tuple(range(1, 13))
    choices = ((*chosen, 12) for size in range(most) for chosen in combinations(range(1, 12), size))
    least = min(padded_tokens(counts, edges) for edges in choices)
    found = best_edges(counts, grid, most=most)
    assert padded_tokens(counts, found) == least
    assert found[-1] == 12
    assert len(found) <= most
    assert list(found) == sorted(set(found))


@given(
    st.dictionaries(st.integers(1, 256), st.integers(1, 1000), min_size=1, max_size=60),
    st.integers(1, 16),
)
def test_never_worse_than_equal_buckets(counts: dict[int, int], most: int) -> None:
    grid = tuple(range(8, 257, 8))
    equal = tuple(sorted({-(-256 * part // most // 8) * 8 for part in range(1, most + 1)}))
    found = best_edges(counts, grid, most=most)
    assert padded_tokens(counts, found) <= padded_tokens(counts, equal)


def test_more_edges_never_pad_more_and_slack_takes_fewer() -> None:
    counts = sample(2000).counts
    grid = (*range(8, 512, 8), 512)
    padded = [padded_tokens(counts, best_edges(counts, grid, most=most)) for most in range(1, 12)]
    assert padded == sorted(padded, reverse=True)
    exact = best_edges(counts, grid, most=16)
    fewer = best_edges(counts, grid, most=16, slack=0.05)
    assert len(fewer) < len(exact)
    assert padded_tokens(counts, fewer) <= 1.05 * padded_tokens(counts, exact)


def test_edges_that_save_nothing_are_left_out() -> None:
    assert best_edges({8: 5, 16: 1}, (8, 16, 24, 32), most=4) == (8, 16, 32)
    assert best_edges({32: 1}, (8, 16, 24, 32), most=4) == (32,)


@pytest.mark.parametrize(("most", "candidates"), [(0, (8,)), (1, ()), (1, (4,))])
def test_what_cannot_be_solved_is_refused(most: int, candidates: tuple[int, ...]) -> None:
    with pytest.raises(BuildError, match=r"candidates that reach the longest text \(5 tokens\)"):
        best_edges({5: 1}, candidates, most=most)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("texts", [512, 20_000])
def test_log_normal_lengths_run_with_little_padding_in_four_profiles(texts: int, seed: int) -> None:
    lengths = sample(texts, seed)
    plan = plan_shapes((), "auto", 512, lambda: lengths)
    assert len(plan.profiles) <= 4
    assert len(plan.buckets) <= MOST_BUCKETS
    assert plan.padding["to_bucket"] <= 1.15
    assert plan.padding["to_longest"] >= 3
    # Four edges cannot do better than 1.6: the figure above comes from the buckets inside.
    assert 1.5 < plan.padding["to_profile"] < 1.75


def test_profiles_meet_without_overlap_and_end_at_buckets() -> None:
    plan = fitted(sample(20_000), 512, most=4)
    ranges = [profile.axes["sequence"] for profile in plan.profiles]
    assert [high for _, _, high in ranges] == [40, 80, 152, 512]
    assert [low for low, _, _ in ranges] == [1, 41, 81, 153]
    assert all(low <= best <= high and best in plan.buckets for low, best, high in ranges)
    assert {high for _, _, high in ranges} <= set(plan.buckets)


def test_a_long_bucket_takes_fewer_texts() -> None:
    plan = fitted(sample(20_000, longest=8192), 8192, most=4)
    batches = [profile.axes["batch"] for profile in plan.profiles]
    tokens = [p.axes["batch"][2] * p.axes["sequence"][2] for p in plan.profiles]
    assert batches[0] == (1, 8, 256)
    assert batches[-1] == (1, 2, 2)
    assert all(count <= 16_384 for count in tokens)
    assert str(plan.everywhere).startswith("batch=1:2:2,sequence=1:")


def test_one_length_is_one_bucket_beside_the_longest() -> None:
    plan = fitted(Lengths(counts={20: 9}, source="s"), 128, most=4)
    assert plan.buckets == (24, 128)
    assert plan.facts() == {
        "profiles": [
            {"batch": [1, 8, 256], "sequence": [1, 24, 24]},
            {"batch": [1, 8, 128], "sequence": [25, 128, 128]},
        ],
        "buckets": [24, 128],
        "padding": {
            "source": "s", "texts": 9, "tokens": 180,
            "to_bucket": 1.2, "to_profile": 1.2, "to_longest": 6.4,
        },
    }  # fmt: skip


def test_texts_that_fill_the_model_need_one_profile() -> None:
    plan = fitted(Lengths(counts={500: 30, 512: 30}, source="s"), 512, most=4)
    assert [str(profile) for profile in plan.profiles] == ["batch=1:8:32,sequence=1:512:512"]
