"""Sizes in normal form: equal ones are equal text, and no claim is wrong at any number."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fuselage.passes.shapes import algebra

NAMES = {"b": 2, "s": 7, "past": 0, "t": 1}
CALLS = {"floor": math.floor, "Min": min, "Max": max}

expressions = some.recursive(
    some.sampled_from([*NAMES, *range(-3, 5)]).map(str),
    lambda inner: some.tuples(inner, some.sampled_from(["+", "-", "*"]), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=6,
)


def number(dim: Any, names: dict[str, int] = NAMES) -> int:
    return int(eval(dim, {**CALLS, **names})) if isinstance(dim, str) else int(dim)


def size(text: str) -> Any:
    """The normal form of an expression; a number for one without names."""
    return algebra.add(algebra.normal(f"b + {text}"), algebra.normal("-b"))


@given(expressions)
def test_the_normal_form_keeps_the_value_and_is_its_own(text: str) -> None:
    dim = size(text)
    assert number(dim) == number(text)
    assert isinstance(dim, int) or algebra.normal(dim) == dim


@given(expressions, expressions)
def test_arithmetic_and_bounds_agree_with_numbers(left: str, right: str) -> None:
    one, other = size(left), size(right)
    a, b = number(left), number(right)
    assert number(algebra.add(one, other)) == a + b
    assert number(algebra.subtract(one, other)) == a - b
    assert number(algebra.multiply(one, other)) == a * b
    assert algebra.lowest(one) <= a <= algebra.highest(one)
    for got, wanted in (
        (algebra.smaller(one, other), min(a, b)),
        (algebra.larger(one, other), max(a, b)),
        (algebra.divide(one, other), a // b if b else None),
    ):
        assert got is None or wanted is None or number(got) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("s70 + s69", "s69 + s70"),
        ("s69+s70", "s69 + s70"),
        ("batch*2*heads", "2*batch*heads"),
        ("1 + past + 1", "past + 2"),
        ("s - 3", "s - 3"),
        ("Min(512, s53)", "Min(512, s53)"),
        ("(a*b)//c", "floor(a * b / c)"),
        ("batch size", "batch size"),
        ("Concat/out_dim_0", "Concat/out_dim_0"),
        ("x" * 300, "x" * 300),
        ("(" * 100 + "s" + ")" * 100, "s"),
        ("a.b", "a.b"),
        ("a**9", "a**9"),
    ],
)
def test_texts_of_dimensions_are_read(text: str, wanted: str) -> None:
    assert algebra.normal(text) == wanted
    assert algebra.normal(wanted) == wanted


def test_hostile_growth_ends_in_an_unknown_size() -> None:
    dim: Any = "a + b + c + 1"
    for _ in range(6):
        dim = None if dim is None else algebra.multiply(dim, dim)
    assert dim is None
    number: Any = 3
    for _ in range(4):
        number = algebra.multiply("a", number) if number is not None else None
    assert number == "3*a*a*a*a"
    assert algebra.multiply("a", 2**70) is None


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ("s", "s", "s"),
        ("s", 1, "s"),
        (1, "s", "s"),
        ("s", 8, 8),  # s is 1 or 8
        (None, 8, 8),
        (None, "s", None),
        ("Min(512, s)", "s", "s"),  # 1 only where s is
        ("b", "c", "Broadcast(b, c)"),
        ("c", "b", "Broadcast(b, c)"),
    ],
)
def test_broadcasting(left: Any, right: Any, wanted: Any) -> None:
    assert algebra.broadcast(left, right) == wanted


def test_only_a_difference_of_two_names_makes_them_equal() -> None:
    assert algebra.equal_names("p1 + s", "p2 + s") == ("p1", "p2")
    assert algebra.equal_names("2*p1", "2*p2") is None
    assert algebra.equal_names("p1 + 1", "p2") is None
    assert algebra.equal_names("p1*s", "p2*s") is None
    assert algebra.equal_names("p", 4) is None
