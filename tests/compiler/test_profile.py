"""The shapes of a build: derived from the model, or asked for and checked."""

from __future__ import annotations

import pytest

from fuselage.compiler.profiles.choice import check_shapes, plan_shapes
from fuselage.compiler.profiles.lengths import Lengths
from fuselage.errors import BuildError, FeedError


def no_lengths() -> Lengths:
    raise AssertionError("the lengths of no text are needed")


def profiles(longest: int, *shapes: str) -> list[str]:
    return [str(found) for found in plan_shapes(shapes, "wide", longest, no_lengths).profiles]


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (64, "batch=1:8:64,sequence=1:64:64"),
        (512, "batch=1:8:64,sequence=1:128:512"),
        (8192, "batch=1:4:4,sequence=1:128:8192"),
        (100_000, "batch=1:1:1,sequence=1:128:100000"),
    ],
)
def test_the_default_fits_a_gpu(longest: int, expected: str) -> None:
    assert profiles(longest) == [expected]


def test_what_was_asked_for_is_taken() -> None:
    assert profiles(16, "batch=2:2:2,sequence=4:8:16") == ["batch=2:2:2,sequence=4:8:16"]


def test_several_are_taken_by_length() -> None:
    short, long = "batch=1:8:64,sequence=1:16:32", "batch=1:8:16,sequence=33:64:64"
    plan = plan_shapes((long, short), "wide", 64, no_lengths)
    assert [str(found) for found in plan.profiles] == [short, long]
    assert str(plan.whole) == "batch=1:8:64,sequence=1:64:64"
    assert str(plan.everywhere) == "batch=1:8:16,sequence=1:64:64"


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        (("batch=1:2:3",), BuildError, "expected the axes batch and sequence, got batch"),
        (("batch=1:1:1,sequence=1:8:17",), BuildError, "17 is more than the 16 tokens"),
        (("batch=1:1:1,sequence=9:8:16",), FeedError, "1 <= min <= opt <= max"),
        (("nonsense",), FeedError, "expected AXIS=MIN:OPT:MAX"),
        (
            ("batch=1:1:1,sequence=1:8:8", "batch=1:1:1,sequence=11:12:16"),
            BuildError,
            "sequences of 9 to 10 are in no profile",
        ),
        (
            ("batch=1:1:1,sequence=1:8:8", "batch=1:1:1,sequence=10:12:16"),
            BuildError,
            "sequences of 9 to 9 are in no profile",
        ),
        (
            ("batch=1:1:2,sequence=1:8:8", "batch=3:3:3,sequence=9:12:16"),
            BuildError,
            "no batch is in every profile .* let each of them take a batch of 3",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    shapes: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        profiles(16, *shapes)


@pytest.mark.parametrize("asked", ["0", "17", "-1", "many", "2.5", ""])
def test_an_unknown_limit_of_profiles_is_refused(asked: str) -> None:
    with pytest.raises(BuildError, match="expected wide, auto, or how many there may be, 1 to 16"):
        check_shapes((), asked)


def test_shapes_and_fitted_profiles_exclude_each_other() -> None:
    check_shapes(("batch=1:1:1,sequence=1:8:8",), "wide")
    with pytest.raises(BuildError, match="--profiles auto derives the shapes that --shapes batch="):
        check_shapes(("batch=1:1:1,sequence=1:8:8",), "auto")
