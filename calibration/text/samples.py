"""What a model is calibrated with: texts, pairs or token ids, and a draw that order cannot sway."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Generic, TypeVar

from ...engines.text.texts import Text
from ...errors import CalibrationError

T = TypeVar("T")

_KEY_BITS = 128


@dataclass(frozen=True)
class TokenIds:
    """A text that was tokenised elsewhere.

    Attributes:
        ids: token ids of the model's vocabulary, special tokens included.
    """

    ids: tuple[int, ...]


Sample = Text | TokenIds
"""A text, a pair that the model reads at once, or token ids."""


def cleaned(item: object, place: str) -> Sample | None:
    """Check one item and strip the blanks around its texts.

    Args:
        item: a str, two of them, or a list of token ids.
        place: where it stands, for errors.

    Returns:
        The sample, or None when it, or a half of a pair, is blank.

    Raises:
        CalibrationError: when it is none of these, or no Unicode text.
    """
    if isinstance(item, str):
        return _text(item, place) or None
    if isinstance(item, TokenIds):
        return item if item.ids else None
    if isinstance(item, list | tuple):
        if len(item) == 2 and all(isinstance(part, str) for part in item):
            pair = _text(item[0], place), _text(item[1], place)
            return pair if all(pair) else None
        if all(type(part) is int for part in item):
            return _token_ids(item, place) if item else None
    raise CalibrationError(
        f"{place}: expected a text, a pair of texts or a list of token ids, got {_kind(item)}"
    )


class Draw(Generic[T]):
    """Keeps the entries with the lowest keys, in memory bounded by how many are kept.

    Keys are random numbers made from the entries themselves, so what is kept is a sample without
    replacement of the distinct entries, whatever their order and however often each one comes.

    Args:
        size: how many entries to keep, at least 1.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[int, T] = {}
        self._bound = 1 << _KEY_BITS

    def add(self, key: int, entry: T) -> None:
        """Keep the entry if its key is among the lowest so far."""
        if key >= self._bound:
            return
        self._kept[key] = entry
        if len(self._kept) > 2 * self._size:
            self._shrink()

    def _shrink(self) -> None:
        lowest = sorted(self._kept)[: self._size + 1]
        self._bound = lowest.pop()
        self._kept = {key: self._kept[key] for key in lowest}

    @property
    def entries(self) -> list[T]:
        """What was drawn, by key."""
        return [self._kept[key] for key in sorted(self._kept)[: self._size]]

    @property
    def distinct(self) -> int:
        """Distinct entries seen: exact up to twice the size, then a KMV estimate.

        All keys below the bound are kept, and keys are uniform, so their number grows with the
        bound (Bar-Yossef et al., Counting Distinct Elements in a Data Stream, 2002).
        """
        return (len(self._kept) << _KEY_BITS) // self._bound


def draw_key(sample: Sample, seed: int) -> int:
    """A number that is random for each sample and seed, and the same wherever it comes from."""
    digest = blake2b(_canonical(sample), digest_size=_KEY_BITS // 8, key=str(seed).encode()[:64])
    return int.from_bytes(digest.digest())


def digest_of(samples: Iterable[Sample]) -> str:
    """sha256 of the sorted sha256 of each sample: the same for any order."""
    each = sorted(sha256(_canonical(sample)).digest() for sample in samples)
    return sha256(b"".join(each)).hexdigest()


def sample_size(sample: Sample) -> int:
    """Characters of a text or pair, or token ids."""
    if isinstance(sample, TokenIds):
        return len(sample.ids)
    return len(sample) if isinstance(sample, str) else sum(map(len, sample))


def _canonical(sample: Sample) -> bytes:
    """Bytes that differ whenever samples do."""
    if isinstance(sample, str):
        return b"text\0" + sample.encode()
    if isinstance(sample, TokenIds):
        return b"ids\0" + b" ".join(b"%d" % number for number in sample.ids)
    first, second = (part.encode() for part in sample)
    return b"pair\0%d\0" % len(first) + first + second


def _text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CalibrationError(
            f"{place}: the character {text[error.start]!r} at {error.start} is half of a "
            "surrogate pair and no text; decode the source with errors='replace'"
        ) from error
    return text.strip()


def _token_ids(ids: list[int] | tuple[int, ...], place: str) -> TokenIds:
    wrong = next((number for number in ids if not 0 <= number < 1 << 31), None)
    if wrong is not None:
        raise CalibrationError(f"{place}: expected token ids from 0 on, got {wrong}")
    return TokenIds(tuple(ids))


def _kind(item: object) -> str:
    if not isinstance(item, list | tuple):
        return type(item).__name__
    kinds = sorted({type(part).__name__ for part in item})
    return f"{type(item).__name__} of {len(item)} ({', '.join(kinds)})"
