"""JSON that is written in one way only, and read so that nothing is missed or left over."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from ..errors import BundleError

_T = TypeVar("_T")
_KINDS = {
    str: "a string",
    int: "an integer",
    float: "a number with a point",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: ASCII, sorted keys, two spaces, a newline at the end.

    Raises:
        BundleError: when the value is not JSON: NaN, a set, an object.
    """
    try:
        return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"expected values JSON can hold: {error}") from error


def json_digest(value: Any) -> str:
    """sha256 of `canonical_json`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


class StrictObject:
    """A JSON object being read: every key is taken once, `end` refuses what is left.

    Every method that takes a key raises BundleError when the key is missing or its value has
    another type; the message names the key and where it stands.

    Args:
        body: what the JSON parser returned.
        where: path of the object, for the messages.
    """

    def __init__(self, body: Any, where: str) -> None:
        if not isinstance(body, dict):
            raise BundleError(f"{where}: expected an object, got {type(body).__name__}")
        self._rest = dict(body)
        self.where = where

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys not yet taken."""
        return tuple(self._rest)

    def take(self, key: str, kind: type[_T]) -> _T:
        """The value of a key, of exactly that JSON type."""
        if key not in self._rest:
            raise BundleError(f"{self.where}: the key {key!r} is missing; the bundle is incomplete")
        value = self._rest.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BundleError(
                f"{self.where}: {key!r} must be {_KINDS[kind]}, got {value!r:.60} "
                f"({type(value).__name__})"
            )
        return value

    def inner(self, key: str) -> StrictObject:
        """The object under a key."""
        return StrictObject(self.take(key, dict), f"{self.where}: {key}")

    def optional_text(self, key: str) -> str | None:
        """A string, or None for null; the key itself must be there."""
        if self._rest.get(key, "") is None:
            del self._rest[key]
            return None
        return self.take(key, str)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """A string out of a few."""
        value = self.take(key, str)
        if value not in allowed:
            raise BundleError(
                f"{self.where}: {key!r} must be one of {list(allowed)}, got {value!r}"
            )
        return value

    def sequence(self, key: str, kind: type[_T]) -> tuple[_T, ...]:
        """A list whose items all have one JSON type."""
        numbered = {str(index): item for index, item in enumerate(self.take(key, list))}
        items = StrictObject(numbered, f"{self.where}: {key}")
        return tuple(items.take(index, kind) for index in items.keys)

    def end(self) -> None:
        """Refuse keys nobody asked for: they belong to a schema this code does not know."""
        if self._rest:
            raise BundleError(f"{self.where}: unknown key {min(self._rest)!r}; update fuselage")
