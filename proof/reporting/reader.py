"""Reads JSON that others wrote: a missing key is None, a wrong type is one clear message."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import FuselageError


class Facts:
    """A JSON object with the place it came from.

    Args:
        content: the object.
        where: file and path inside it, for messages.
    """

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content = content
        self.where = where

    def __bool__(self) -> bool:
        return bool(self.content)

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def text(self, key: str) -> str | None:
        """A string."""
        value = self.content.get(key)
        return None if value is None else self._checked(key, value, str, "a string")

    def number(self, key: str) -> float | None:
        """A finite number; whole ones stay int."""
        value = self.content.get(key)
        if value is None:
            return None
        number: float = self._checked(key, value, (int, float), "a number")
        if isinstance(number, bool) or not math.isfinite(number):
            raise self._wrong(key, "a finite number", value)
        return number

    def count(self, key: str) -> int | None:
        """A whole number from 0 on."""
        value = self.number(key)
        if value is None:
            return None
        if value != int(value) or value < 0:
            raise self._wrong(key, "a whole number from 0 on", value)
        return int(value)

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self.content.get(key)
        return None if value is None else self._checked(key, value, bool, "true or false")

    def part(self, key: str) -> Facts:
        """An object; an empty one when it is missing."""
        value = self.content.get(key)
        found = {} if value is None else self._checked(key, value, dict, "an object")
        return Facts(found, f"{self.where}: {key}")

    def parts(self, key: str) -> tuple[Facts, ...]:
        """A list of objects; empty when it is missing."""
        found = []
        for index, value in enumerate(self._list(key)):
            if not isinstance(value, dict):
                raise self._wrong(f"{key}[{index}]", "an object", value)
            found.append(Facts(value, f"{self.where}: {key}[{index}]"))
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when it is missing."""
        values = self._list(key)
        for index, value in enumerate(values):
            self._checked(f"{key}[{index}]", value, str, "a string")
        return tuple(values)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty when it is missing."""
        values = self._list(key)
        for index, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self._wrong(f"{key}[{index}]", "a number", value)
            if not math.isfinite(value):
                raise self._wrong(f"{key}[{index}]", "a finite number", value)
        return tuple(values)

    def named(self, key: str) -> Iterator[tuple[str, Facts]]:
        """The objects inside an object, by name."""
        inner = self.part(key)
        for name in inner.content:
            yield name, inner.part(name)

    def _list(self, key: str) -> list[Any]:
        value = self.content.get(key)
        found: list[Any] = [] if value is None else self._checked(key, value, list, "a list")
        return found

    def _checked(self, key: str, value: Any, kind: Any, expected: str) -> Any:
        if not isinstance(value, kind):
            raise self._wrong(key, expected, value)
        return value

    def _wrong(self, key: str, expected: str, value: object) -> FuselageError:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return FuselageError(
            f"{self.where}: expected {expected} for {key!r}, got {shown}; make the file again"
        )
