"""The shape profile of a build: derived from the model, or asked for and checked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fuselage.compiler.stages import Build
from fuselage.errors import BuildError, FeedError


def profile(shapes: str | None, max_tokens: int) -> str:
    build = SimpleNamespace(request=SimpleNamespace(shapes=shapes))
    return str(Build._profile(build, SimpleNamespace(max_tokens=max_tokens)))


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (64, "batch=1:8:64,sequence=1:64:64"),
        (512, "batch=1:8:64,sequence=1:128:512"),
        (8192, "batch=1:4:4,sequence=1:128:8192"),
        (100_000, "batch=1:1:1,sequence=1:128:100000"),
    ],
)
def test_the_default_fits_a_gpu(max_tokens: int, expected: str) -> None:
    assert profile(None, max_tokens) == expected


def test_what_was_asked_for_is_taken() -> None:
    assert profile("batch=2:2:2,sequence=4:8:16", 16) == "batch=2:2:2,sequence=4:8:16"


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ("batch=1:2:3", BuildError, "expected the axes batch and sequence, got batch"),
        ("batch=1:1:1,sequence=1:8:17", BuildError, "17 is more than the 16 tokens"),
        ("batch=1:1:1,sequence=9:8:16", FeedError, "1 <= min <= opt <= max"),
        ("nonsense", FeedError, "expected AXIS=MIN:OPT:MAX"),
    ],
)
def test_what_cannot_be_is_refused(shapes: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        profile(shapes, 16)
