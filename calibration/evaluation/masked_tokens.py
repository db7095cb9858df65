"""How likely a masked language model finds each token of a text, given all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...engines.text.encoder import Encoded
from ...engines.text.runtime import TextRuntime


@dataclass(frozen=True)
class _Masked:
    """What an encoder needs of a `tokenizers.Encoding`: ``ids`` and ``type_ids``."""

    ids: list[int]
    type_ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def log_likelihoods(runtime: TextRuntime, texts: Sequence[str]) -> list[NDArray[np.float64]]:
    """Mask one token after the other, special tokens left out, and ask for it.

    Salazar et al., Masked Language Model Scoring, 2020. A text of n tokens costs n rows.

    Args:
        runtime: of a fill-mask task; its first output is logits [batch, sequence, vocabulary].
        texts: each has at least one token of its own.

    Returns:
        Natural logarithms [tokens] for each text; at most 0.
    """
    encoded = runtime.encoder.encode(texts)
    asked = [
        (text, place)
        for text, encoding in enumerate(encoded.encodings)
        for place in np.flatnonzero(np.array(encoding.special_tokens_mask) == 0).tolist()
    ]
    if not asked:
        return [np.zeros(0) for _ in texts]
    found = np.zeros(len(asked))
    for rows, values in _answered(runtime, encoded, asked):
        found[rows] = values
    owners = np.array([text for text, _ in asked])
    return [found[owners == text] for text in range(len(texts))]


def _answered(
    runtime: TextRuntime, encoded: Encoded, asked: Sequence[tuple[int, int]]
) -> Iterator[tuple[NDArray[np.intp], list[float]]]:
    mask = runtime.spec.mask_token_id
    masked = []
    for text, place in asked:
        ids = list(encoded.encodings[text].ids)
        ids[place] = cast(int, mask)
        masked.append(_Masked(ids, list(encoded.encodings[text].type_ids)))
    owners = np.array([text for text, _ in asked])
    copies = Encoded(cast(Any, tuple(masked)), owners, encoded.lengths[owners])
    for batch in runtime.run(copies):
        values = []
        for row, logits in zip(batch.rows.tolist(), batch.tokens(), strict=True):
            text, place = asked[row]
            values.append(_log_softmax(logits[place], encoded.encodings[text].ids[place]))
        yield batch.rows, values


def _log_softmax(logits: NDArray[np.float32], token: int) -> float:
    exact = logits.astype(np.float64)
    largest = exact.max()
    return float(exact[token] - largest - np.log(np.exp(exact - largest).sum()))
