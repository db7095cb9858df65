"""Texts to the hidden states of their tokens."""

from __future__ import annotations

from collections.abc import Iterable

from .runtime import Steps, TextRuntime, in_steps
from .scores import Floats
from .texts import listed


class FeatureExtraction(TextRuntime):
    """Answers like the feature-extraction pipeline of transformers with ``return_tensors``."""

    task = "feature-extraction"

    @in_steps
    def __call__(self, inputs: str | Iterable[str]) -> Steps[Floats | list[Floats]]:
        """Hidden states, special tokens included, padding not.

        Returns:
            float32 [1, tokens, hidden] for one text; a list of those, in order, for a list.

        Raises:
            TextError: on an empty text or list, or on what is no text.
        """
        texts, is_one = listed(inputs, (str,))
        encoded = self.encoder.encode(texts)
        states: dict[int, Floats] = {}
        for batch in (yield encoded):
            # copied: a view would keep the padded batch alive
            copies = (values[None].copy() for values in batch.tokens())
            states.update(zip(batch.rows.tolist(), copies, strict=True))
        return states[0] if is_one else [states[row] for row in range(len(texts))]
