"""How numbers are written: as many digits as mean something, units people read."""

from __future__ import annotations

import math
from collections.abc import Callable

DASH = "–"
MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_SIZES = ("B", "kB", "MB", "GB", "TB")


def count(value: float | None) -> str:
    """A whole number, with groups of three from 10,000 on."""
    if value is None:
        return DASH
    text = f"{abs(round(value)):,}" if abs(value) >= 10_000 else f"{abs(round(value))}"
    return (MINUS if value < 0 else "") + text


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits; powers of ten where it is very small or large."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    sign = MINUS if value < 0 else ""
    if -4 <= size < 6:
        return sign + f"{abs(value):,.{max(0, digits - 1 - size)}f}"
    mantissa = f"{abs(value) / 10**size:.{max(0, digits - 2)}f}"
    return f"{sign}{mantissa}×10{_superscript(size)}"


def fixed(value: float | None, decimals: int) -> str:
    """A number with so many decimals."""
    if value is None:
        return DASH
    text = f"{abs(value):,.{decimals}f}"
    return (MINUS if value < 0 and float(text.replace(",", "")) else "") + text


def cosine(value: float | None) -> str:
    """A cosine with the digits in which it differs from 1, six at most."""
    if value is None:
        return DASH
    gap = abs(1 - value)
    return fixed(value, 6 if gap < 1e-5 else max(4, 1 - math.floor(math.log10(gap))))


def size(value: float | None) -> str:
    """Bytes in powers of 1000."""
    if value is None:
        return DASH
    power = 0
    while value >= 999.5 and power < len(_SIZES) - 1:
        value, power = value / 1000, power + 1
    return f"{count(value) if power == 0 else significant(value)}{_SPACE}{_SIZES[power]}"


def milliseconds(value: float | None) -> str:
    """A time in the unit that suits it."""
    if value is None:
        return DASH
    if value >= 1000:
        return seconds(value / 1000)
    if value < 1:
        return f"{significant(value * 1000)}{_SPACE}µs"
    return f"{significant(value)}{_SPACE}ms"


def seconds(value: float | None) -> str:
    """Seconds, in milliseconds below a tenth."""
    if value is None:
        return DASH
    if value < 0.1:
        return f"{significant(value * 1000, 2)}{_SPACE}ms"
    return f"{significant(value, 2 if value < 10 else 3)}{_SPACE}s"


def percent(share: float | None, digits: int = 2) -> str:
    """A share of 1 as percent; `<` where it would vanish."""
    if share is None:
        return DASH
    if share == 0:
        return f"0{_SPACE}%"
    value = share * 100
    if abs(value) < 0.001:
        return f"<{_SPACE}0.001{_SPACE}%"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{fixed(value, decimals)}{_SPACE}%"


def decibels(value: float | None) -> str:
    """A ratio in decibel."""
    return DASH if value is None else f"{fixed(value, 1)}{_SPACE}dB"


def interval(
    low_high: tuple[float, ...], write: Callable[[float | None], str] = significant
) -> str:
    """An interval of confidence, or nothing."""
    if len(low_high) != 2:
        return ""
    return f"{write(low_high[0])} to {write(low_high[1])}"


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
