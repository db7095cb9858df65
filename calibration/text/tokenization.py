"""Samples to tokens, as the bundle will tokenise: prompt, pairs, longest length."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from ...engines.text.encoder import TextEncoder, TruncationWarning
from ...engines.text.texts import Text
from ...errors import CalibrationError
from .samples import Sample, TokenIds


class Encoding(Protocol):
    """One tokenised text, as the package ``tokenizers`` returns it."""

    @property
    def ids(self) -> list[int]:
        """Token ids, special tokens included, no padding."""

    @property
    def type_ids(self) -> list[int]:
        """Segment of each token."""

    @property
    def attention_mask(self) -> list[int]:
        """1 for a token, 0 for padding."""

    @property
    def overflowing(self) -> Sequence[object]:
        """What was cut off; empty for a text that is whole."""


class Tokenize(Protocol):
    """Turns texts into encodings, cut to the longest length the model takes."""

    def __call__(self, texts: Sequence[Sample]) -> Sequence[Encoding]:
        """Tokenise without padding, in order."""


@dataclass(frozen=True)
class TokenRow:
    """Token ids that were given as such, in the form in which a tokenizer gives them.

    Attributes:
        ids: as many as the model takes.
        overflowing: the rest.
    """

    ids: list[int]
    overflowing: tuple[int, ...]

    @property
    def type_ids(self) -> list[int]:
        """One segment."""
        return [0] * len(self.ids)

    @property
    def attention_mask(self) -> list[int]:
        """No padding."""
        return [1] * len(self.ids)


def tokenize_with(encoder: TextEncoder) -> Tokenize:
    """Tokenise as the bundle will: with the model's tokenizer, prompt and longest length.

    Pairs are joined as the tokenizer joins them; token ids are cut and taken as they are. A text
    that is cut still shows the model what it will see, so no warning is given for it.

    Raises:
        CalibrationError: when called with a pair for an embedding, or token ids that are not in
            the vocabulary.
    """
    prompt = encoder.spec.prompts.get(encoder.spec.default_prompt or "", "")
    limit = id_limit(encoder)

    def tokenize(texts: Sequence[Sample]) -> Sequence[Encoding]:
        plain = [_prompted(text, prompt, encoder) for text in texts if _is_text(text)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            encoded = iter(encoder.encode(plain).encodings if plain else ())
        return [
            _row(text, limit, encoder) if isinstance(text, TokenIds) else next(encoded)
            for text in texts
        ]

    return tokenize


def id_limit(encoder: TextEncoder) -> int:
    """One more than the largest id; more than the size of a vocabulary that leaves ids out."""
    return max(encoder.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _is_text(sample: Sample) -> TypeGuard[Text]:
    return not isinstance(sample, TokenIds)


def _prompted(text: Text, prompt: str, encoder: TextEncoder) -> Text:
    if isinstance(text, str):
        return prompt + text
    if encoder.spec.task == "embedding":
        raise CalibrationError(
            "pairs of texts: an embedding model reads one text at a time; name one column, or give "
            "both texts on their own"
        )
    return text


def _row(sample: TokenIds, limit: int, encoder: TextEncoder) -> TokenRow:
    if max(sample.ids) >= limit:
        raise CalibrationError(
            f"token ids: expected ids below {limit}, where the vocabulary ends, got "
            f"{max(sample.ids)}; tokenise with the tokenizer of this model"
        )
    most = encoder.max_tokens
    if encoder.spec.truncation_side == "left":
        return TokenRow(list(sample.ids[-most:]), sample.ids[:-most])
    return TokenRow(list(sample.ids[:most]), sample.ids[most:])
