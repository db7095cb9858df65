"""Work of texts: their own lengths, their own tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...engines.text.encoder import Encoded, TextEncoder, TruncationWarning
from ...engines.text.task import TaskSpec
from ...engines.text.texts import Text
from ...errors import FeedError
from .work import Shape, Work

MOST_INPUTS = 32
"""Batches of texts that calls go through in turn."""

_QUESTION_WORDS = 8


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """Texts and how a model reads them.

    Attributes:
        encoder: of the model.
        texts: in any order.
        source: where they come from.
    """

    encoder: TextEncoder
    texts: tuple[Text, ...] = field(repr=False)
    source: str

    def ids(self) -> tuple[int, ...]:
        """Distinct token ids of the texts, special tokens left out where others are there."""
        found: set[int] = set()
        for encoding in self._encoded(self.texts).encodings:
            marks = encoding.special_tokens_mask
            found.update(i for i, mark in zip(encoding.ids, marks, strict=True) if not mark)
        return tuple(sorted(found))

    def cut(self) -> int:
        """How many of the texts are longer than the model takes."""
        return sum(bool(found.overflowing) for found in self._encoded(self.texts).encodings)

    def feeds(self, shape: Shape, least: int = 1) -> Work:
        """Batches of texts, each padded to its longest, or to ``least``."""
        groups = self._groups(shape.batch)
        inputs, tokens, padded = [], [], []
        for group in groups:
            encoded = self._encoded(group)
            inputs.append(self.encoder.feeds(encoded, np.arange(len(group)), least))
            tokens.append(int(encoded.lengths.sum()))
            padded.append(inputs[-1]["input_ids"].size)
        return Work(
            name=self._name(shape),
            sequences=shape.batch,
            inputs=tuple(inputs),
            tokens=tuple(tokens),
            padded=tuple(padded),
        )

    def questions(self, shape: Shape) -> Work:
        """Batches of texts as a pipeline of the task takes them."""
        groups = self._groups(shape.batch)
        return Work(
            name=self._name(shape),
            sequences=shape.batch,
            inputs=tuple([_asked(text, self.encoder.spec) for text in group] for group in groups),
            tokens=tuple(int(self._encoded(group).lengths.sum()) for group in groups),
        )

    def _groups(self, size: int) -> list[tuple[Text, ...]]:
        count = min(MOST_INPUTS, max(1, len(self.texts) // size))
        pool = self.texts * -(-size // len(self.texts)) if len(self.texts) < size else self.texts
        return [pool[at * size : (at + 1) * size] for at in range(count)]

    def _encoded(self, texts: Sequence[Text]) -> Encoded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            return self.encoder.encode(texts)

    @staticmethod
    def _name(shape: Shape) -> str:
        return "1 text" if shape.batch == 1 else f"{shape.batch} texts"


def read_texts(files: Sequence[Path], columns: Sequence[str] = ()) -> tuple[tuple[Text, ...], str]:
    """The user's texts, or the corpus that ships with fuselage.

    Returns:
        The texts and where they come from.

    Raises:
        CalibrationError: when a file is unusable, with the line.
        FeedError: when it holds token ids.
    """
    from ...calibration.text.data import CalibrationSet, default_corpus

    found = CalibrationSet.from_files(files, columns=columns) if files else default_corpus()
    texts = tuple(text for text in found.texts if isinstance(text, str | tuple))
    if len(texts) < len(found.texts):
        raise FeedError(f"{found.source}: expected texts, got token ids; give --shapes instead")
    return texts, found.source


def _asked(text: Text, task: TaskSpec) -> str | Mapping[str, Any]:
    if task.task == "question-answering":
        start = " ".join(text.split()[:_QUESTION_WORDS]) if isinstance(text, str) else ""
        question, context = (start, text) if isinstance(text, str) else text
        return {"question": question, "context": context}
    if isinstance(text, str):
        return f"{text} {task.mask_token}" if task.task == "fill-mask" else text
    if task.task != "sequence-classification":
        raise FeedError(f"a pipeline of the task {task.task!r} takes single texts, got pairs")
    return {"text": text[0], "text_pair": text[1]}
