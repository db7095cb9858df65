"""What others answer on the same folder, in the form of ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.pipelines.document_question_answering import select_starts_ends


def pipeline(task: str, folder: Path, texts: list[Any], **options: Any) -> list[Any]:
    """The pipeline of transformers, one text at a time."""
    pipe = transformers.pipeline(task, model=str(folder), device="cpu", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
        return [pipe(text, **options) for text in texts]


def embeddings(folder: Path, texts: list[str]) -> list[Any]:
    """SentenceTransformer.encode with mean pooling."""
    from sentence_transformers import SentenceTransformer

    return list(SentenceTransformer(str(folder), device="cpu").encode(texts))


def ranks(folder: Path, queries: list[str], passages: list[list[str]]) -> list[Any]:
    """CrossEncoder.rank, one query at a time."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(folder), device="cpu")
    return [
        encoder.rank(query, texts, return_documents=True, top_k=5)
        for query, texts in zip(queries, passages, strict=True)
    ]


class QuestionAnswering:
    """The pipeline of transformers 4 over its own span search, which version 5 still has.

    Spans that end before they begin (score 0) are left out; several windows are read one by one.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        auto = transformers.AutoModelForQuestionAnswering
        self.model: Any = auto.from_pretrained(folder, dtype=torch.float32).eval()

    def __call__(
        self, question: str, context: str, *, top_k: int, impossible: bool, longest: int = 15
    ) -> list[dict[str, Any]]:
        """Answers, best first."""
        window = self.tokenizer.model_max_length
        encoded = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=window,
            stride=window // 2,
            return_overflowing_tokens=True,
        )
        answers: list[dict[str, Any]] = []
        null = 1_000_000.0
        for encoding in encoded.encodings:
            starts, ends, scores, null = self._spans(encoding, null, top_k, impossible, longest)
            for first, last, score in zip(starts, ends, scores, strict=True):
                if 0 < first <= last:
                    _add(answers, encoding, context, (int(first), int(last)), float(score))
        if impossible:
            answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
        return sorted(answers, key=lambda answer: -answer["score"])[:top_k]

    def _spans(
        self, encoding: Any, null: float, top_k: int, impossible: bool, longest: int
    ) -> tuple[Any, Any, Any, float]:
        ids = np.array(encoding.ids)
        blocked = np.array([sequence != 1 for sequence in encoding.sequence_ids])
        blocked[ids == self.tokenizer.cls_token_id] = False
        rows = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        names = [name for name in rows if name in self.tokenizer.model_input_names]
        with torch.inference_mode():
            logits = self.model(**{name: torch.tensor([rows[name]]) for name in names})
        found: tuple[Any, Any, Any, float] = select_starts_ends(
            logits.start_logits.numpy(),
            logits.end_logits.numpy(),
            blocked.astype(int)[None],
            np.ones((1, ids.size), int),
            null,
            top_k * 2 + 10,
            impossible,
            longest,
        )
        return found


def _add(
    answers: list[dict[str, Any]], encoding: Any, context: str, span: tuple[int, int], score: float
) -> None:
    words = encoding.token_to_word(span[0]), encoding.token_to_word(span[1])
    start, end = encoding.offsets[span[0]][0], encoding.offsets[span[1]][1]
    if None not in words:
        start, end = encoding.word_to_chars(words[0], 1)[0], encoding.word_to_chars(words[1], 1)[1]
    text = context[start:end]
    for known in answers:
        if known["answer"].lower() == text.lower():
            known["score"] += score
            return
    answers.append({"score": score, "start": start, "end": end, "answer": text})
