"""What callers hand in: one text or many, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import TextError

Text = str | tuple[str, str]
"""A text, or a pair that the tokenizer joins with its separator."""


def listed(inputs: Any, single: tuple[type, ...]) -> tuple[list[Any], bool]:
    """Make a list of one or many inputs.

    Args:
        inputs: one input or an iterable of inputs.
        single: types of one input.

    Returns:
        The list, and whether there was only one input, not in a list.

    Raises:
        TextError: when it is neither.
    """
    if isinstance(inputs, single):
        return [inputs], True
    if isinstance(inputs, Iterable) and not isinstance(inputs, (str, bytes, Mapping)):
        return list(inputs), False
    names = " or ".join(kind.__name__ for kind in single)
    raise TextError(f"expected a {names} or a list of them, got {type(inputs).__name__}")


def checked(texts: Sequence[Text]) -> None:
    """Refuse what cannot be tokenised.

    Raises:
        TextError: when there is no text, or one is empty, blank, no string, or holds half a
            surrogate pair; it says which.
    """
    if not texts:
        raise TextError("expected at least one text, got an empty list")
    for index, text in enumerate(texts):
        for part in text if isinstance(text, tuple) else (text,):
            _check_part(part, index)


def _check_part(part: Any, index: int) -> None:
    if not isinstance(part, str):
        raise TextError(f"text {index}: expected a str, got {type(part).__name__} ({part!r:.40})")
    if not part or part.isspace():
        raise TextError(
            f"text {index}: expected some text, got {part!r:.40}; leave empty texts out"
        )
    if not part.isascii():
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"text {index}: the character {part[error.start]!r} at {error.start} is half of a "
                "surrogate pair and no text; decode the source with errors='replace'"
            ) from error
