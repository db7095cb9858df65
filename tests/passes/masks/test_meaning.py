"""A meaning against its definition, position by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.masks.meaning import Mask

PADDING = ir.Value(name="padding")
OTHER = ir.Value(name="other")


def kept(mask: Mask, token: Any, queries: int, row: int, query: int, key: int) -> bool:
    here = token.shape[1] - queries + query
    if mask.back is not None and here - key > mask.back:
        return False
    if mask.ahead is not None and key - here > mask.ahead:
        return False
    if mask.padding is None:
        return True
    return bool(token[row, key] and (token[row, query] or not mask.pads_queries))


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (Mask(), "no mask"),
        (Mask(padding=PADDING), "padding by padding"),
        (Mask(padding=PADDING, pads_queries=True), "padding of keys and queries by padding"),
        (Mask(ahead=0), "causal"),
        (Mask(padding=PADDING, ahead=0, back=2), "padding by padding, causal, at most 2 back"),
        (Mask(ahead=1, back=1), "at most 1 back, at most 1 ahead"),
    ],
    ids=str,
)
def test_a_mask_keeps_what_it_says(mask: Mask, text: str, rng: np.random.Generator) -> None:
    assert str(mask) == text
    for batch, queries, keys in ((1, 1, 1), (2, 5, 5), (3, 2, 7), (2, 1, 4)):
        if mask.pads_queries and queries != keys:
            continue
        token = rng.integers(0, 2, (batch, keys))
        got = mask.keeps(token, queries)
        assert got.shape == (batch, 1, queries, keys)
        for place in np.ndindex(batch, queries, keys):
            row, query, key = place
            assert got[row, 0, query, key] == kept(mask, token, queries, row, query, key), place


def test_both_keep_what_each_keeps(rng: np.random.Generator) -> None:
    masks = (Mask(padding=PADDING), Mask(ahead=0), Mask(back=2, ahead=3), Mask())
    token = rng.integers(0, 2, (3, 6))
    for left in masks:
        for right in masks:
            both = left.both(right)
            assert both is not None
            wanted = left.keeps(token, 6) & right.keeps(token, 6)
            np.testing.assert_array_equal(both.keeps(token, 6), wanted)


def test_two_paddings_are_no_one_mask() -> None:
    assert Mask(padding=PADDING).both(Mask(padding=OTHER)) is None
    assert Mask(padding=PADDING).both(Mask(padding=PADDING, ahead=0)) == Mask(
        padding=PADDING, ahead=0
    )


def test_only_limits_beyond_a_size_are_widened() -> None:
    assert Mask(back=39, ahead=0).widened(100, beyond=20) == Mask(back=139, ahead=0)
    assert Mask(back=3).widened(100, beyond=20) == Mask(back=3)


@pytest.mark.parametrize(
    ("mask", "band", "empty", "causal"),
    [
        (Mask(), False, True, False),
        (Mask(ahead=0), True, False, True),
        (Mask(ahead=0, back=3), True, False, False),
        (Mask(padding=PADDING), False, False, False),
        (Mask(padding=PADDING, ahead=0), True, False, False),
    ],
    ids=str,
)
def test_kinds_of_masks(mask: Mask, band: bool, empty: bool, causal: bool) -> None:
    assert (mask.has_band, mask.is_empty, mask.is_causal_alone) == (band, empty, causal)
