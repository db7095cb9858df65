"""Polynomials: the laws of a ring, evaluation, and the sizes that shape inference writes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselage.errors import GraphError
from fuselage.proof.cost_model.polynomial import ZERO, Polynomial, evaluate, product, total

_NAMES = ("batch", "sequence", "past")
_SIZES = st.fixed_dictionaries({name: st.integers(0, 9) for name in _NAMES})


@st.composite
def polynomials(draw: st.DrawFn) -> Polynomial:
    """Sums of products of up to three sizes."""
    found = ZERO
    for _ in range(draw(st.integers(0, 4))):
        factor = Fraction(draw(st.integers(-5, 5)), draw(st.integers(1, 3)))
        term = Polynomial.of(factor)
        for name in draw(st.lists(st.sampled_from(_NAMES), max_size=3)):
            term *= Polynomial.of(name)
        found += term
    return found


@given(polynomials(), polynomials(), polynomials())
def test_laws_of_a_ring(a: Polynomial, b: Polynomial, c: Polynomial) -> None:
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == ZERO
    assert a * 1 == a
    assert a * 0 == ZERO


@given(polynomials(), polynomials(), _SIZES)
def test_evaluation_respects_sums_and_products(
    a: Polynomial, b: Polynomial, sizes: dict[str, int]
) -> None:
    assert (a + b).at(sizes) == a.at(sizes) + b.at(sizes)
    assert (a * b).at(sizes) == a.at(sizes) * b.at(sizes)
    assert (3 * a + Fraction(1, 2)).at(sizes) == 3 * a.at(sizes) + Fraction(1, 2)


def test_text_names_the_highest_degree_first() -> None:
    batch, sequence = Polynomial.of("batch"), Polynomial.of("sequence")
    mixed = 1620 * batch * sequence * sequence - batch * sequence + Fraction(1, 2)
    assert str(mixed) == "1620*batch*sequence*sequence - batch*sequence + 1/2"
    assert str(ZERO) == "0"
    assert str(-batch) == "-batch"


def test_sizes_that_shape_inference_writes_are_evaluated() -> None:
    length = Polynomial.of("past + sequence")
    assert (length * length).at({"past": 3, "sequence": 4}) == 49
    assert Polynomial.of("Min(512, sequence)").at({"sequence": 700}) == 512
    assert Polynomial.of("floor(sequence/2)").at({"sequence": 7}) == 3
    assert evaluate("Max(1, sequence - 3)", {"sequence": 2}) == 1
    assert product((2, "batch", 3)).at({"batch": 5}) == 30
    assert total([length, length]).at({"past": 1, "sequence": 1}) == 4


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("hidden", "size 'hidden' is not known.*known are batch"),
        ("batch ** 2", "expected arithmetic of named sizes"),
        ("open('x')", "expected arithmetic of named sizes"),
        ("2 **", "expected arithmetic of named sizes"),
        ("floor(7/0)", "expected arithmetic of named sizes"),
    ],
)
def test_what_is_no_known_size_is_refused(size: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        evaluate(size, {"batch": 1})
