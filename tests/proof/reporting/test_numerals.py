from __future__ import annotations

import pytest

from fuselage.proof.reporting import numerals

SPACE = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (134, "134"), (9999, "9999"), (18_644, "18,644"), (-48, "−48"),
    ],
)  # fmt: skip
def test_counts(value: float | None, text: str) -> None:
    assert numerals.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (4.205, "4.21"), (24.111, "24.1"), (0.00123, "0.00123"), (1.2345e-7, "1.2×10⁻⁷"),
        (123_456, "123,456"), (-2.5, "−2.50"), (9.999, "10.0"), (1e9, "1.0×10⁹"),
    ],
)  # fmt: skip
def test_significant_digits(value: float, text: str) -> None:
    assert numerals.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(39_588_244, "39.6 MB"), (999, "999 B"), (1000, "1.00 kB"), (999_600, "1.00 MB"), (0, "0 B")],
)
def test_sizes(value: float, text: str) -> None:
    assert numerals.size(value) == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.996459, "0.9965"), (0.99985, "0.99985"), (0.98766, "0.9877"), (1 - 4e-12, "1.000000"),
        (1.0, "1.000000"), (0.5, "0.5000"), (None, "–"),
    ],
)  # fmt: skip
def test_cosines_have_the_digits_in_which_they_differ(value: float | None, text: str) -> None:
    assert numerals.cosine(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4386, "44 %"), (0.084, "8.4 %"), (0, "0 %"), (2.5e-4, "0.025 %"), (1e-9, "< 0.001 %"),
     (1.0, "100 %")],
)  # fmt: skip
def test_shares(value: float, text: str) -> None:
    assert numerals.percent(value) == text.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.205, "4.21 ms"), (0.0421, "42.1 µs"), (1500, "1.5 s"), (63.8, "63.8 ms")],
)
def test_times(value: float, text: str) -> None:
    assert numerals.milliseconds(value) == text.replace(" ", SPACE)


def test_intervals_need_two_ends() -> None:
    assert numerals.interval((23.1, 24.9), lambda value: numerals.fixed(value, 1)) == "23.1 to 24.9"
    assert numerals.interval(()) == ""
