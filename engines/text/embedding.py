"""Texts to vectors; pooling and L2 norm are inside the graph."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...errors import TextError
from .runtime import Steps, TextRuntime, in_steps
from .scores import Floats
from .texts import listed


class Embedding(TextRuntime):
    """Answers like ``SentenceTransformer.encode``."""

    task = "embedding"

    @in_steps
    def __call__(
        self,
        inputs: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Steps[Floats]:
        """Embed one text or many.

        Args:
            inputs: a text, or texts in any order and of any length.
            prompt_name: put this prompt of the model before every text, such as ``query``.
            prompt: put this text before every text instead.

        Returns:
            float32 [dimension] for one text, [texts, dimension] for a list.

        Raises:
            TextError: on an empty text or list, on what is no text, or an unknown prompt.
        """
        texts, is_one = listed(inputs, (str,))
        before = self._prompt(prompt_name) if prompt is None else prompt
        # joined only where a text is there: a prompt alone is no text
        encoded = self.encoder.encode(
            [before + text if isinstance(text, str) and text.strip() else text for text in texts]
            if before
            else texts
        )
        vectors: Floats | None = None
        for batch in (yield encoded):
            if vectors is None:
                vectors = np.empty((len(texts), *batch.outputs[0].shape[1:]), np.float32)
            vectors[batch.rows] = batch.outputs[0]
        assert vectors is not None  # the encoder refuses an empty list
        return np.asarray(vectors[0] if is_one else vectors)

    def _prompt(self, name: str | None) -> str:
        wanted = self.spec.default_prompt if name is None else name
        if wanted is None:
            return ""
        if wanted not in self.spec.prompts:
            raise TextError(
                f"prompt_name: expected one of {sorted(self.spec.prompts)}, got {wanted!r}; "
                "pass prompt=... for a text of your own"
            )
        return self.spec.prompts[wanted]
