"""One field of a row to the value it stands for, or an error that says where it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import CalibrationError
from ..metrics.entity_f1 import Entity
from ..text.samples import cleaned


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The columns of one row by role.

    Attributes:
        place: file and line.
        columns: role to name of its column.
        values: by name of column.
        labels: of the model, in the order of its ids.
    """

    place: str
    columns: Mapping[str, str]
    values: Mapping[str, object]
    labels: Sequence[str]

    def text(self, role: str) -> str:
        """A text that is not blank."""
        value = self._value(role)
        if not isinstance(value, str) or not value.strip():
            raise self._bad(role, "a text", value)
        cleaned(value, self.place)  # refuses what is no Unicode text
        return value

    def texts(self) -> str | tuple[str, str]:
        """The text, or the pair where there is a column for its second half."""
        first = self.text("text")
        return (first, self.text("pair")) if "pair" in self.columns else first

    def score(self) -> float:
        """A finite number."""
        value = self._value("score")
        try:
            number = float(value) if isinstance(value, str | int | float) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number):
            raise self._bad("score", "a finite number", value)
        return number

    def label(self) -> int:
        """Index of a label, given by its name or its index."""
        return self._label("label", self._value("label"))

    def answers(self) -> tuple[str, ...]:
        """All accepted answers; one empty answer where the context holds none.

        A text is one answer, a list holds several, an object holds them under ``text`` (SQuAD).
        """
        value = self._value("answers")
        given = value.get("text") if isinstance(value, Mapping) else value
        many = [given] if isinstance(given, str) else given
        if not isinstance(many, list) or not all(isinstance(one, str) for one in many):
            raise self._bad("answers", "a text, a list of texts, or an object with text", value)
        return tuple(many) or ("",)

    def ranking(self) -> tuple[tuple[str, ...], int]:
        """A query, its relevant passages and others; and how many are relevant."""
        relevant, others = self._passages("positive"), self._passages("negative")
        return (self.text("query"), *relevant, *others), len(relevant)

    def _passages(self, role: str) -> list[str]:
        value = self._value(role)
        many = [value] if isinstance(value, str) else value
        given = many if isinstance(many, list) else []
        texts = [one.strip() for one in given if isinstance(one, str) and one.strip()]
        if not texts or len(texts) < len(given):
            raise self._bad(role, "a text or a list of texts", value)
        for text in texts:
            cleaned(text, self.place)  # refuses what is no Unicode text
        return texts

    def entities(self) -> tuple[str, frozenset[Entity]]:
        """A text and its entities, from words and their tags."""
        words = self._value("tokens")
        tags = self._value("tags")
        if not isinstance(words, list) or not all(isinstance(w, str) and w.strip() for w in words):
            raise self._bad("tokens", "a list of words", words)
        if not words or not isinstance(tags, list) or len(tags) != len(words):
            raise self._bad("tags", f"a list of {len(words)} tags, one a word", tags)
        names = [self.labels[self._label("tags", tag)] for tag in tags]
        return " ".join(words), frozenset(_entities(words, names))

    def _label(self, role: str, value: Any) -> int:
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        index = _whole(value)
        if index is None or not 0 <= index < len(self.labels):
            named = ", ".join(map(repr, self.labels[:8])) + (", ..." if self.labels[8:] else "")
            raise self._bad(
                role, f"one of the model's labels {named} or 0 to {len(self.labels) - 1}", value
            )
        return index

    def _value(self, role: str) -> Any:
        name = self.columns[role]
        if name not in self.values:
            raise CalibrationError(f"{self.place}: expected a column {name!r}, which is missing")
        return self.values[name]

    def _bad(self, role: str, expected: str, value: object) -> CalibrationError:
        shown = repr(value) if len(repr(value)) <= 60 else f"{value!r:.57}..."
        return CalibrationError(
            f"{self.place}: column {self.columns[role]!r}: expected {expected}, got {shown}"
        )


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None


def _entities(words: Sequence[str], tags: Sequence[str]) -> list[Entity]:
    """Neighbouring words of one kind are one entity; ``B-`` begins another (IOB2)."""
    found: list[Entity] = []
    begin, before = 0, ""
    for word, tag in zip(words, tags, strict=True):
        kind = tag[2:] if tag[:2] in ("B-", "I-") else tag
        if tag == "O":
            before = ""
        elif kind == before and not tag.startswith("B-"):
            label, first, _ = found.pop()
            found.append((label, first, begin + len(word)))
        else:
            found.append((kind, begin, begin + len(word)))
            before = kind
        begin += len(word) + 1
    return found
