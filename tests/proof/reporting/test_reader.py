from __future__ import annotations

import pytest

from fuselage.errors import FuselageError
from fuselage.proof.reporting.reader import Facts


def facts(**content: object) -> Facts:
    return Facts(content, "a.json")


def test_what_is_missing_or_null_is_none() -> None:
    read = facts(a=None)
    assert (read.text("a"), read.number("b"), read.flag("c"), read.count("d")) == (None,) * 4
    assert not read.part("e")
    assert (read.parts("f"), read.texts("g"), read.numbers("h")) == ((), (), ())
    assert "a" not in read


def test_values_come_as_they_are() -> None:
    read = facts(t="x", n=1.5, c=3, f=False, o={"k": 1}, l=[{"z": 2}], m=[1, 2.5])
    assert (read.text("t"), read.number("n"), read.count("c"), read.flag("f")) == (
        "x",
        1.5,
        3,
        False,
    )
    assert read.part("o").number("k") == 1
    assert read.parts("l")[0].count("z") == 2
    assert read.numbers("m") == (1, 2.5)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", 3, "a string"), ("number", "3", "a number"), ("number", True, "a finite number"),
        ("number", float("nan"), "a finite number"), ("count", 1.5, "a whole number from 0 on"),
        ("count", -1, "a whole number from 0 on"), ("flag", 1, "true or false"),
        ("part", [], "an object"), ("parts", {}, "a list"), ("parts", [1], "an object"),
        ("texts", ["a", 1], "a string"), ("numbers", [1, None], "a number"),
        ("numbers", [float("inf")], "a finite number"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_one_clear_message(kind: str, value: object, expected: str) -> None:
    with pytest.raises(FuselageError, match=rf"^a\.json: expected {expected} for 'k"):
        getattr(facts(k=value), kind)("k")


def test_the_message_names_the_way_to_the_value_and_cuts_long_ones() -> None:
    read = facts(a={"b": [{"c": "x" * 100}]})
    with pytest.raises(FuselageError, match=r"a\.json: a: b\[0\]: .* for 'c', got 'x{36}\.\.\.;"):
        read.part("a").parts("b")[0].number("c")
