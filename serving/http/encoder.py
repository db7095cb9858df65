"""An encoder that cuts a text only for a client that said it may."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from ...engines.text.encoder import Encoded, TextEncoder
from ...engines.text.texts import Text
from ...errors import TextError

may_cut: ContextVar[bool] = ContextVar("may_cut", default=False)
"""Whether the request under way accepts that its long texts lose their end."""


class StrictEncoder(TextEncoder):
    """Refuses texts that are longer than the model takes, unless `may_cut` is set."""

    def encode(self, texts: Sequence[Text], *, offsets: bool = False) -> Encoded:
        """Tokenise, one row a text; see `TextEncoder.encode`.

        Raises:
            TextError: also when a text is too long and may not be cut.
        """
        encoded = super().encode(texts, offsets=offsets)
        if not may_cut.get():
            full = np.flatnonzero(encoded.lengths == self.max_tokens)
            cut = [int(row) for row in full if encoded.encodings[row].overflowing]
            if cut:
                raise TextError(
                    f"text {cut[0]}: expected at most {self.max_tokens} tokens, got more; split "
                    'the text, or send "truncate": true to lose its end'
                )
        return encoded


@dataclass(frozen=True)
class TokenRow:
    """One text as a client's own tokens: what the feeds are made of."""

    ids: list[int]
    type_ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def encoded_tokens(rows: Sequence[Sequence[int]], encoder: TextEncoder) -> Encoded:
    """Token ids, used as they are: special tokens must be among them.

    Raises:
        TextError: on an empty or too long text, or an id that the vocabulary does not have.
    """
    vocabulary = encoder.tokenizer.get_vocab_size(with_added_tokens=True)
    for index, ids in enumerate(rows):
        if not 1 <= len(ids) <= encoder.max_tokens:
            raise TextError(
                f"text {index}: expected 1 to {encoder.max_tokens} token ids, got {len(ids)}"
            )
        if min(ids) < 0 or max(ids) >= vocabulary:
            bad = next(token for token in ids if not 0 <= token < vocabulary)
            raise TextError(
                f"text {index}: expected token ids of this model's own tokenizer, 0 to "
                f"{vocabulary - 1}, got {bad!r:.40}"
            )
    encodings = tuple(TokenRow(list(ids), [0] * len(ids)) for ids in rows)
    lengths = np.array([len(ids) for ids in rows], np.int64)
    return Encoded(encodings, np.arange(len(rows)), lengths)  # type: ignore[arg-type]
