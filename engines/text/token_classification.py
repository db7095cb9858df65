"""Texts to labelled tokens or entities."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import TextError
from .entities import Tokens, Vocabulary, aggregate, keep_longest
from .runtime import Steps, TextRuntime, in_steps
from .scores import softmax
from .texts import listed

if TYPE_CHECKING:
    from .encoder import Encoded

Strategy = Literal["none", "simple", "first", "average", "max"]
STRATEGIES = ("none", "simple", "first", "average", "max")

Entity = dict[str, Any]
"""``entity`` or ``entity_group``, ``score``, ``word``, ``start``, ``end``; ``index`` of a token."""


class TokenClassification(TextRuntime):
    """Answers like the token-classification pipeline of transformers."""

    task = "token-classification"

    @in_steps
    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        aggregation_strategy: Strategy = "none",
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
    ) -> Steps[list[Entity] | list[list[Entity]]]:
        """Label the tokens of one text or many.

        Args:
            inputs: a text or texts.
            aggregation_strategy: none gives every token; simple joins neighbours of one label;
                first, average and max also give all tokens of a word one label: that of its first
                token, of the mean scores, of the token with the highest score.
            ignore_labels: labels (with none) or groups that are left out.
            stride: read long texts in windows that share this many tokens, instead of cutting
                them; of overlapping entities the longer one stays.

        Returns:
            Entities in the order of the text; ``start`` and ``end`` count characters. A list of
            lists for a list.

        Raises:
            TextError: on an empty text or list, what is no text, an unknown strategy, or a stride
                that does not fit.
        """
        if aggregation_strategy not in STRATEGIES:
            raise TextError(
                f"aggregation_strategy: expected one of {list(STRATEGIES)}, "
                f"got {aggregation_strategy!r}"
            )
        texts, is_one = listed(inputs, (str,))
        if stride is None:
            encoded = self.encoder.encode(texts, offsets=True)
        else:
            self._check_stride(stride, aggregation_strategy)
            encoded = self.encoder.encode_windows(
                texts,
                max_tokens=self.encoder.max_tokens,
                stride=stride,
                strategy="longest_first",
            )
        found = self._entities(texts, encoded, aggregation_strategy, frozenset(ignore_labels))
        entities = yield from found
        return entities[0] if is_one else entities

    def _check_stride(self, stride: int, strategy: Strategy) -> None:
        room = self.encoder.max_tokens - self.encoder.special_tokens(pair=False)
        if not 0 <= stride < room:
            raise TextError(f"stride: expected 0 to {room - 1} shared tokens, got {stride}")
        if strategy == "none":
            raise TextError(
                "stride: expected an aggregation_strategy other than 'none', which cannot merge "
                "the windows of a text"
            )

    def _entities(
        self, texts: list[str], encoded: Encoded, strategy: Strategy, ignored: frozenset[str]
    ) -> Steps[list[list[Entity]]]:
        vocabulary = Vocabulary.of(self.encoder.tokenizer, self.spec)
        found: dict[int, list[Entity]] = {}
        for batch in (yield encoded):
            self.check_labels(batch.outputs[0])
            for row, logits in zip(batch.rows.tolist(), batch.tokens(), strict=True):
                text = texts[encoded.sources[row]]
                tokens = Tokens.of(encoded.encodings[row], softmax(logits), text, vocabulary)
                found[row] = aggregate(tokens, strategy, ignored)
        counts = np.bincount(encoded.sources, minlength=len(texts))
        result: list[list[Entity]] = [[] for _ in texts]
        for row, source in enumerate(encoded.sources.tolist()):
            result[source] += found[row]
        return [
            keep_longest(entities) if count > 1 else entities
            for entities, count in zip(result, counts, strict=True)
        ]
