"""Batches by length within a budget, and the sizes an engine accepts."""

from __future__ import annotations

import numpy as np
import pytest

from fuselage.engines.text.batching import BatchBudget, BatchLimits, batches
from fuselage.errors import BundleError
from fuselage.graph.tensors import ShapeProfile, TensorSpec


def cut(lengths: list[int], budget: BatchBudget, min_batch: int = 1) -> list[list[int]]:
    limits = BatchLimits(min_batch=min_batch)
    return [rows.tolist() for rows in batches(np.array(lengths), budget, limits)]


def test_longest_first_within_the_token_budget() -> None:
    assert cut([3, 50, 4, 8, 3], BatchBudget(10, 16)) == [[1], [3, 2], [0, 4]]


def test_never_more_than_max_batch() -> None:
    assert cut([1] * 5, BatchBudget(2, 1000)) == [[0, 1], [2, 3], [4]]


def test_min_batch_exceeds_the_token_budget() -> None:
    assert cut([9, 9, 9, 9, 9], BatchBudget(8, 10), min_batch=2) == [[0, 1], [2, 3], [4]]


def test_every_text_once_and_little_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(3.5, 0.8, 2000).clip(5, 256).astype(np.int64)
    found = batches(lengths, BatchBudget(64, 512))
    assert sorted(np.concatenate(found).tolist()) == list(range(2000))
    padded = sum(int(lengths[rows].max()) * rows.size for rows in found)
    assert padded / lengths.sum() < 1.03
    assert all(int(lengths[rows].max()) * rows.size <= 512 and rows.size <= 64 for rows in found)


@pytest.mark.parametrize(
    ("dims", "profile", "expected"),
    [
        (("batch", "sequence"), None, (1, None, 1, None)),
        (("batch", "sequence"), "batch=2:4:8,sequence=16:32:64", (2, 8, 16, 64)),
        (("batch", "sequence"), "batch=1:4:8", (1, 8, 1, None)),
        ((4, 128), None, (4, 4, 128, 128)),
        (("b", "s"), "b=1:1:2,s=1:5:9", (1, 2, 1, 9)),
    ],
)
def test_limits_come_from_dims_and_profile(
    dims: tuple[int | str, ...], profile: str | None, expected: tuple[int | None, ...]
) -> None:
    shapes = None if profile is None else ShapeProfile.parse(profile)
    limits = BatchLimits.of(TensorSpec("input_ids", "int64", dims), shapes)
    assert expected == (
        limits.min_batch,
        limits.max_batch,
        limits.min_sequence,
        limits.max_sequence,
    )


def test_other_rank_is_refused() -> None:
    with pytest.raises(BundleError, match=r"input_ids: int64\[tokens\]: expected the dims"):
        BatchLimits.of(TensorSpec("input_ids", "int64", ("tokens",)), None)


IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
SHORT = ShapeProfile.parse("batch=1:8:100,sequence=1:16:32")
LONG = ShapeProfile.parse("batch=2:8:12,sequence=33:64:64")
WHOLE = ShapeProfile.parse("batch=1:8:100,sequence=1:64:64")


def several(*buckets: int) -> BatchLimits:
    return BatchLimits.of(IDS, WHOLE, profiles=(SHORT, LONG), buckets=buckets)


def test_the_longer_the_texts_the_fewer_a_profile_takes() -> None:
    limits, budget = several(), BatchBudget(1000, 1600)
    assert (
        limits.min_batch == 2
    )  # every batch, whatever its profile, has the most any of them needs
    assert [limits.most_rows(width, budget) for width in (8, 32, 33, 64)] == [100, 50, 12, 12]
    assert limits.most_rows(4000, budget) == 2


def test_one_profile_bounds_nothing_but_the_range() -> None:
    limits = BatchLimits.of(IDS, SHORT, profiles=(SHORT,))
    assert (limits.profiles, limits.max_batch) == ((), 100)


def test_texts_are_as_wide_as_their_bucket() -> None:
    limits = several(8, 24, 48)
    lengths = np.array([1, 8, 9, 24, 25, 48, 49, 64])
    assert limits.widths(lengths).tolist() == [8, 8, 24, 24, 48, 48, 49, 64]
    assert several().widths(lengths).tolist() == lengths.tolist()
