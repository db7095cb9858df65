"""Texts with masks to the tokens that fill them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import TextError
from .batching import Indices
from .runtime import Steps, TextRuntime, in_steps
from .scores import Floats, check_top_k, softmax
from .texts import checked, listed

if TYPE_CHECKING:
    from .encoder import Encoded

Filling = dict[str, Any]
"""``score`` (float), ``token`` (int), ``token_str`` and ``sequence`` (str)."""


class FillMask(TextRuntime):
    """Answers like the fill-mask pipeline of transformers.

    Other than there, a list of one text gives a list of one answer, and a target outside the
    vocabulary is an error rather than replaced by its first piece.
    """

    task = "fill-mask"

    @in_steps
    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
    ) -> Steps[Any]:
        """Fill the masks of one text or many.

        Args:
            inputs: a text with at least one mask token, or texts.
            top_k: fillings a mask, best first.
            targets: consider only these tokens.

        Returns:
            For a text with one mask its fillings; with several masks a list of fillings for each,
            every mask on its own; for a list of texts one such answer a text. The score is the
            share of the whole vocabulary, also with targets.

        Raises:
            TextError: on an empty text or list, what is no text, a text without a mask token, an
                unknown target or top_k below 1.
        """
        check_top_k(top_k)
        texts, is_one = listed(inputs, (str,))
        chosen = None if targets is None else self._target_ids(targets)
        encoded = self.encoder.encode(texts)
        masks = self._masks(encoded)
        answers: dict[int, Any] = {}
        for batch in (yield encoded):
            for row, logits in zip(batch.rows.tolist(), batch.tokens(), strict=True):
                ids = np.array(encoded.encodings[row].ids)
                scores = softmax(logits[masks[row]])
                answers[row] = self._fillings(ids, masks[row], scores, chosen, top_k)
        return answers[0] if is_one else [answers[row] for row in range(len(texts))]

    def _masks(self, encoded: Encoded) -> list[Indices]:
        masks = [
            np.flatnonzero(np.array(encoding.ids) == self.spec.mask_token_id)
            for encoding in encoded.encodings
        ]
        for index, found in enumerate(masks):
            if found.size == 0:
                raise TextError(
                    f"text {index}: expected the mask token {self.spec.mask_token!r} among its "
                    f"first {self.encoder.max_tokens} tokens, got none; write it where a word is "
                    "missing"
                )
        return masks

    def _target_ids(self, targets: str | Sequence[str]) -> NDArray[np.int64]:
        names, _ = listed(targets, (str,))
        checked(names)
        ids = [self.encoder.token_id(name) for name in names]
        if None in ids:
            raise TextError(
                f"targets: expected words of one token, got {names[ids.index(None)]!r}, which is "
                "several or unknown and cannot fill one mask"
            )
        return np.unique(np.array(ids, np.int64))

    def _fillings(
        self,
        ids: NDArray[np.int64],
        masks: Indices,
        scores: Floats,
        chosen: NDArray[np.int64] | None,
        top_k: int,
    ) -> Any:
        tokens = np.arange(scores.shape[1]) if chosen is None else chosen
        considered = scores[:, tokens]
        count = min(top_k, tokens.size)
        best = np.argpartition(-considered, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(considered, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        ranked = np.take_along_axis(considered, best, axis=1)
        rows = [
            [
                self._filling(ids, int(mask), token, score, is_only=masks.size == 1)
                for token, score in zip(tokens[columns].tolist(), row.tolist(), strict=True)
            ]
            for mask, columns, row in zip(masks, best, ranked, strict=True)
        ]
        return rows[0] if len(rows) == 1 else rows

    def _filling(
        self, ids: NDArray[np.int64], mask: int, token: int, score: float, *, is_only: bool
    ) -> Filling:
        filled = ids.copy()
        filled[mask] = token
        # the other masks are special tokens and stay visible
        sequence = filled[filled != self.spec.pad_token_id].tolist()
        return {
            "score": score,
            "token": token,
            "token_str": self.encoder.decode([token], skip_special_tokens=False),
            "sequence": self.encoder.decode(sequence, skip_special_tokens=is_only),
        }
