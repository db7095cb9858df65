"""Texts or pairs of texts to labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import TextError
from .runtime import Steps, TextRuntime, in_steps
from .scores import Floats, check_top_k, sigmoid, softmax
from .task import Activation
from .texts import Text, listed

if TYPE_CHECKING:
    from .encoder import Encoded

Label = dict[str, Any]
"""``label`` (str) and ``score`` (float)."""

Ranked = dict[str, Any]
"""``corpus_id`` (int), ``score`` (float), and ``text`` when it was asked for."""

Pair = Mapping[str, str]
"""``text`` and ``text_pair``."""


class SequenceClassification(TextRuntime):
    """Answers like the text-classification pipeline of transformers."""

    task = "sequence-classification"

    @in_steps
    def __call__(
        self,
        inputs: str | tuple[str, str] | Pair | Iterable[str | tuple[str, str] | Pair],
        *,
        top_k: int | Literal["best"] | None = "best",
        function_to_apply: Activation | None = None,
    ) -> Steps[Any]:
        """Classify one input or many.

        Args:
            inputs: a text, a pair as (text, text_pair) or ``{"text": ..., "text_pair": ...}``, or
                a list of those.
            top_k: this many labels, best first; None gives all of them.
            function_to_apply: logits to scores; by default what the model was trained with:
                softmax, sigmoid (several labels may hold, or there is only one) or none.

        Returns:
            As transformers does: for one text a list of labels (of one when top_k is "best"), for
            one pair in a dict and "best" the label itself; for a list one such answer an input, a
            label when top_k is "best", else a list of labels.

        Raises:
            TextError: on an empty text or list, what is no text or pair, or top_k below 1.
        """
        limit = 1 if top_k == "best" else top_k
        check_top_k(limit)
        items, is_one = listed(inputs, (str, tuple, dict))
        texts = [_text(item, index) for index, item in enumerate(items)]
        scores = yield from self._scores(self.encoder.encode(texts), function_to_apply)
        answers = self._labels(scores, limit)
        if top_k == "best":
            best = [labels[0] for labels in answers]
            if not is_one:
                return best
            return best if isinstance(inputs, str) else best[0]
        return answers[0] if is_one else answers

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        function_to_apply: Activation | None = None,
    ) -> list[Ranked]:
        """Order passages by how well they answer a query, as ``CrossEncoder.rank`` does.

        Args:
            query: the first half of every pair.
            passages: the second halves.
            top_k: this many, best first; None gives all of them.
            return_documents: also hand back the passage as ``text``.
            function_to_apply: logits to scores; by default what the model was trained with.

        Returns:
            ``corpus_id`` (number of the passage) and ``score`` of each, best first; passages of one
            score keep their order.

        Raises:
            TextError: when the model has more labels than one, on an empty query or passage, or
                top_k below 1.
        """
        if len(self.spec.labels) != 1:
            raise TextError(
                f"rank: expected a cross-encoder with one label, this model has "
                f"{len(self.spec.labels)}; call it on the pairs and sort by the label you mean"
            )
        check_top_k(top_k)
        if isinstance(passages, str):
            raise TextError("rank: expected a list of passages, got one str")
        pairs = [(query, passage) for passage in passages]
        found = self(pairs, function_to_apply=function_to_apply)
        order = sorted(range(len(pairs)), key=lambda index: -found[index]["score"])[:top_k]
        return [
            {"corpus_id": index, "score": found[index]["score"]}
            | ({"text": passages[index]} if return_documents else {})
            for index in order
        ]

    def _scores(self, encoded: Encoded, activation: Activation | None) -> Steps[Floats]:
        function = _ACTIVATIONS.get(activation or self.spec.activation)
        if function is None:
            raise TextError(
                f"function_to_apply: expected one of {list(_ACTIVATIONS)}, got {activation!r}"
            )
        scores = np.empty((len(encoded.encodings), len(self.spec.labels)), np.float32)
        for batch in (yield encoded):
            self.check_labels(batch.outputs[0])
            scores[batch.rows] = batch.outputs[0]
        return function(scores)

    def _labels(self, scores: Floats, limit: int | None) -> list[list[Label]]:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
        ranked = np.take_along_axis(scores, order, axis=1)
        names = self.spec.labels
        return [
            [
                {"label": names[label], "score": score}
                for label, score in zip(labels, row, strict=True)
            ]
            for labels, row in zip(order.tolist(), ranked.tolist(), strict=True)
        ]


def _as_they_are(logits: Floats) -> Floats:
    return logits


_ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": _as_they_are,
}


def _text(item: Any, index: int) -> Text:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping) and "text" in item and set(item) <= {"text", "text_pair"}:
        pair = item.get("text_pair")
        return item["text"] if pair is None else (item["text"], pair)
    if isinstance(item, tuple) and len(item) == 2:
        return item
    raise TextError(
        f"text {index}: expected a str, a tuple (text, text_pair) or a dict with the keys 'text' "
        f"and 'text_pair', got {item!r:.60}"
    )
