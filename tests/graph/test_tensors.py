from __future__ import annotations

import contextlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.errors import FeedError
from fuselage.graph.tensors import ShapeProfile, TensorSpec, check_feeds

IDS = TensorSpec("ids", "int64", ("batch", "sequence"))
MASK = TensorSpec("mask", "int64", ("batch", "sequence"))
X = TensorSpec("x", "float32", ("batch", 4))
SPECS = (IDS, MASK, X)


def feeds(**changed: Any) -> dict[str, Any]:
    made = {
        "ids": np.ones((2, 3), np.int64),
        "mask": np.ones((2, 3), np.int64),
        "x": np.ones((2, 4), np.float32),
    } | changed
    return {name: array for name, array in made.items() if array is not None}


def test_a_spec_reads_as_its_type() -> None:
    assert str(X) == "x: float32[batch, 4]"
    assert str(TensorSpec("n", "int64", ())) == "n: int64[]"


def test_sound_feeds_bind_the_axes() -> None:
    assert check_feeds(SPECS, feeds()) == {"batch": 2, "sequence": 3}
    assert check_feeds((), {}) == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": None}, "expected exactly the inputs ['ids', 'mask', 'x'], got ['ids', 'x'] "
         "(missing ['mask'], unknown [])"),
        ({"types": np.ones(1)}, "(missing [], unknown ['types'])"),
        ({"x": [[1.0] * 4] * 2}, "feed 'x': expected a numpy array, got list"),
        ({"ids": np.ones((2, 3), np.int32)}, "feed 'ids': expected dtype int64, got int32; "
         "convert it with .astype('int64')"),
        ({"x": np.ones((2, 4))}, "feed 'x': expected dtype float32, got float64"),
        ({"x": np.ones(4, np.float32)}, "feed 'x': expected rank 2 (x: float32[batch, 4]), "
         "got shape [4]"),
        ({"x": np.ones((2, 5), np.float32)}, "feed 'x': axis 1 (4) has size 5, expected 4"),
        ({"x": np.ones((3, 4), np.float32)}, "feed 'x': axis 0 (batch) has size 3, expected 2"),
        ({"mask": np.ones((2, 4), np.int64)},
         "feed 'mask': axis 1 (sequence) has size 4, expected 3"),
        ({"ids": np.ones((2, 0), np.int64)},
         "feed 'ids': axis 1 (sequence) has size 0, expected at least 1"),
    ],
)  # fmt: skip
def test_unsound_feeds_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(FeedError, match=re.escape(message)):
        check_feeds(SPECS, feeds(**changed))


@pytest.mark.parametrize("unsound", [None, [np.ones(1)]])
def test_feeds_that_are_no_dict_are_refused(unsound: Any) -> None:
    with pytest.raises(FeedError, match="expected a dict of input name to array, got"):
        check_feeds(SPECS, unsound)


# --- profiles

names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=8)
sizes = st.lists(st.integers(1, 10**6), min_size=3, max_size=3).map(lambda s: tuple(sorted(s)))


@settings(deadline=None)
@given(st.dictionaries(names, sizes, min_size=1, max_size=4))
def test_profiles_read_what_they_write(axes: dict[str, tuple[int, int, int]]) -> None:
    profile = ShapeProfile(axes)
    assert ShapeProfile.parse(str(profile)) == profile


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_profile_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(FeedError):
        profile = ShapeProfile.parse(text)
        assert ShapeProfile.parse(str(profile)) == profile


def test_spaces_around_names_are_dropped() -> None:
    profile = ShapeProfile.parse("batch=1:8:32, sequence = 1:128:256")
    assert profile.axes == {"batch": (1, 8, 32), "sequence": (1, 128, 256)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected AXIS=MIN:OPT:MAX[,...], got '' in ''; for example batch=1:8:32"),
        ("batch", "got 'batch' in 'batch'"),
        ("batch=1:2", "got 'batch=1:2'"),
        ("batch=1:2:3:4", "got 'batch=1:2:3:4'"),
        ("batch=1:x:3", "got 'batch=1:x:3'"),
        ("batch=1:2:3,", "got '' in 'batch=1:2:3,'"),
        ("=1:2:3", "expected one AXIS=MIN:OPT:MAX an axis; '=1:2:3' names no axis in '=1:2:3'"),
        ("b=1:2:3,b=1:2:4", "'b=1:2:3,b=1:2:4' names 'b' twice"),
        ("batch=0:2:3", "axis 'batch' needs 1 <= min <= opt <= max, got 0:2:3"),
        ("batch=3:2:4", "axis 'batch' needs 1 <= min <= opt <= max, got 3:2:4"),
        ("batch=1:5:4", "axis 'batch' needs 1 <= min <= opt <= max, got 1:5:4"),
        ("batch=-1:2:4", "axis 'batch' needs 1 <= min <= opt <= max, got -1:2:4"),
    ],
)
def test_unsound_profiles_are_refused(text: str, message: str) -> None:
    with pytest.raises(FeedError, match=re.escape(message)):
        ShapeProfile.parse(text)


PROFILE = ShapeProfile({"batch": (1, 8, 32), "sequence": (2, 128, 256)})


def test_shapes_of_a_tensor() -> None:
    assert PROFILE.shapes(IDS) == ((1, 2), (8, 128), (32, 256))
    assert PROFILE.shapes(X) == ((1, 4), (8, 4), (32, 4))


def test_an_axis_the_profile_lacks() -> None:
    spec = TensorSpec("past", "float32", ("batch", "past_length"))
    with pytest.raises(
        FeedError,
        match=r"batch=1:8:32,sequence=2:128:256: input past: float32\[batch, past_length\] has "
        r"the dynamic axis 'past_length', which the profile does not name",
    ):
        PROFILE.shapes(spec)


@pytest.mark.parametrize(("batch", "sequence"), [(1, 2), (32, 256), (8, 128)])
def test_sizes_inside_the_profile_pass(batch: int, sequence: int) -> None:
    PROFILE.check({"batch": batch, "sequence": sequence, "unknown": 10**9})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 33}, "axis 'batch' has size 33, but the engine was built for 1 to 32; "
         "split or pad the input, or rebuild with --shapes batch=1:..:33"),
        ({"batch": 1, "sequence": 1}, "axis 'sequence' has size 1, but the engine was built for 2"),
    ],
)  # fmt: skip
def test_sizes_outside_are_named(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(FeedError, match=re.escape(message)):
        PROFILE.check(sizes)
