"""Which landmark is the first that is off, from errors alone."""

from __future__ import annotations

import numpy as np
import pytest

from fuselage.proof.locating.align import Alignment
from fuselage.proof.locating.judge import first_off, furthest
from fuselage.proof.locating.landmarks import Landmark
from fuselage.proof.locating.pairing import Pair
from fuselage.proof.locating.tokens import Layout

FLOOR = 1e-2
_ROWS = np.ones((8, 2), np.float32)


def mark(layer: str) -> Landmark:
    return Landmark(
        layer=layer, tensor=layer, array=_ROWS, rows=_ROWS, norm=4.0, by_token=False, different=8
    )


def pair(value: str, error: float) -> Pair:
    return Pair(
        value=value,
        form="same",
        layout=Layout(None, (0, 1), by_token=False),
        shape=(8, 2),
        dtype=np.dtype(np.float32),
        error=error,
    )


def alignment(
    errors: dict[str, float], *, shared: dict[str, str] | None = None, overflowed: int | None = None
) -> Alignment:
    """Landmarks in order with their local errors; a value of their own unless it is shared."""
    shared = shared or {}
    pairs = {
        index: pair(shared.get(layer, f"value of {layer}"), error)
        for index, (layer, error) in enumerate(errors.items())
    }
    return Alignment(
        marks=[mark(layer) for layer in errors],
        run=pairs,
        local=pairs,
        overflowed=frozenset() if overflowed is None else frozenset({overflowed}),
        infinite=(),
    )


def named(errors: dict[str, float], shared: dict[str, str] | None = None) -> str | None:
    found = first_off(alignment(errors, shared=shared), FLOOR)
    return None if found is None else list(errors)[found.index]


def test_the_first_beyond_the_floor() -> None:
    assert named({"a": 1e-3, "b": 9e-3, "c": 2e-2, "d": 0.3}) == "c"
    assert named({"a": 1e-3, "b": 9e-3}) is None


def test_a_kind_may_be_coarser_than_the_floor_everywhere() -> None:
    """Four times the lower median of the others, 1.6e-2 here."""
    kinds = {"0.x": 4e-3, "1.x": 1.5e-2, "2.x": 4e-3, "3.x": 1.7e-2, "4.x": 4e-3}
    assert named(kinds) == "3.x"


def test_no_more_is_conceded_than_four_floors() -> None:
    assert named({"0.x": 0.041, "1.x": 0.041, "2.x": 0.041}) == "0.x"
    assert named({"0.x": 0.039, "1.x": 0.039, "2.x": 0.039}) is None


def test_what_no_layer_has_was_fused_away() -> None:
    assert named({"0.x": 1.0, "0.y": 1e-3, "1.x": 1.2, "1.y": 1e-3}) is None


def test_what_other_layers_have_is_missed() -> None:
    assert named({"0.x": 1e-3, "0.y": 1e-3, "1.x": 1.2, "1.y": 1e-3}) == "1.x"


def test_one_of_its_kind_is_missed_when_a_value_has_no_other_landmark() -> None:
    assert named({"positions": 1.2, "norm": 0.4}) == "positions"
    shared = {"pooler": "value of head"}
    assert named({"pooler": 1.2, "head": 1e-3}, shared) is None


def test_a_value_belongs_to_the_landmark_it_is_nearest_to() -> None:
    """The second layer borrows the first one's value: it has none of its own."""
    errors = {"0.x": 1e-3, "1.x": 4e-2, "2.x": 5e-3}
    assert named(errors) == "1.x"
    found = first_off(alignment(errors, shared={"1.x": "value of 0.x"}), FLOOR)
    assert found is not None
    assert found.error == float("inf")


def test_an_overflow_is_named_behind_what_agrees() -> None:
    errors = {"0.x": 1.0, "0.y": 1e-3, "1.x": 1.0}
    assert first_off(alignment(errors, overflowed=0), FLOOR) is None
    found = first_off(alignment(errors, overflowed=2), FLOOR)
    assert found is not None
    assert (found.index, found.agreed) == (2, (1,))


def test_where_none_is_off_the_furthest_is_named() -> None:
    found = furthest(alignment({"a": 1e-3, "b": 9e-3, "c": 2e-3}), FLOOR)
    assert found is not None
    assert (found.index, found.gradual, found.agreed) == (1, True, (0,))
    assert found.error / found.limit == pytest.approx(0.9)
    assert furthest(alignment({"a": 1.0}), FLOOR) is None
