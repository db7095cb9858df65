"""Tensors of many layouts as rows of real tokens."""

from __future__ import annotations

import numpy as np
import pytest

from fuselage.graph.tensors import Array
from fuselage.proof.locating.tokens import Tokens, frobenius
from fuselage.proof.locating.variety import with_variety

BATCH, SEQUENCE, HEADS, SIZE = 2, 5, 3, 4
REAL = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
TOKENS = Tokens.of({"input_ids": REAL, "attention_mask": REAL})
PLAIN = np.random.default_rng(0).standard_normal((BATCH, SEQUENCE, HEADS * SIZE)).astype(np.float32)
SPLIT = PLAIN.reshape(BATCH, SEQUENCE, HEADS, SIZE)


@pytest.mark.parametrize(
    "array",
    [
        PLAIN,
        SPLIT,
        SPLIT.transpose(0, 2, 1, 3),
        SPLIT.transpose(0, 2, 3, 1),
        PLAIN.reshape(-1, HEADS * SIZE),
        SPLIT.transpose(0, 2, 1, 3).reshape(-1, SEQUENCE, SIZE),
        SPLIT.transpose(0, 2, 3, 1).reshape(-1, SIZE, SEQUENCE),
    ],
    ids=["plain", "heads", "bhsd", "bhds", "flat", "merged", "merged-transposed"],
)
def test_every_layout_gives_the_same_rows(array: Array) -> None:
    wanted = PLAIN[REAL != 0]
    layouts = list(TOKENS.layouts(array.shape))
    matches = [
        layout
        for layout in layouts
        if np.array_equal(TOKENS.matrix(array, layout).reshape(-1), wanted.reshape(-1))
    ]
    assert matches
    assert matches[0].by_token
    back = matches[0].invert(PLAIN, array.shape)
    assert np.array_equal(back, array)


def test_texts_without_a_token_are_left_out_of_what_is_not_by_token() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 0]])
    tokens = Tokens.of({"input_ids": mask, "attention_mask": mask})
    layout = next(tokens.layouts((2, 7)))
    assert tokens.matrix(np.ones((2, 7), np.float32), layout).shape == (1, 7)


def test_a_mask_over_a_cache_ends_with_the_tokens() -> None:
    mask = np.array([[0, 1, 1, 0]])
    tokens = Tokens.of({"input_ids": np.ones((1, 2), np.int64), "attention_mask": mask})
    assert tokens.real is not None
    assert tokens.real.tolist() == [[True, False]]


def test_images_are_compared_whole() -> None:
    tokens = Tokens.of({"pixel_values": np.ones((2, 3, 4, 4), np.float32)})
    assert [layout.by_token for layout in tokens.layouts((2, 5, 8))] == [False]


def test_a_norm_beyond_float32_is_infinite_and_quiet() -> None:
    assert frobenius(np.full((2, 2), 3e38, np.float32)) == float("inf")
    assert frobenius(np.array([[3.0, 4.0]])) == 5.0


def test_rows_are_added_behind_the_own() -> None:
    ids = np.array([[101, 7, 102]])
    feeds: dict[str, Array] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    more = with_variety(feeds)
    assert more["input_ids"].shape == more["attention_mask"].shape == (17, 3)
    assert np.array_equal(more["input_ids"][:1], ids)
    assert 0 <= more["input_ids"].min() <= more["input_ids"].max() <= 102


def test_enough_tokens_are_left_as_they_are() -> None:
    ids = np.arange(60).reshape(2, 30)
    feeds: dict[str, Array] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert with_variety(feeds)["input_ids"] is ids


def test_other_inputs_stay_as_they_are() -> None:
    feeds: dict[str, Array] = {"input_ids": np.ones((1, 2), np.int64), "past": np.ones((1, 2))}
    assert with_variety(feeds) == feeds
