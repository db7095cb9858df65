"""Examples to answers, by the runtime of their task: pooling, spans and labels are its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...engines.text.encoder import TruncationWarning
from ...engines.text.runtime import TextRuntime
from ...errors import CalibrationError, TextError
from ..metrics.table import Form
from .examples import Examples
from .masked_tokens import log_likelihoods

Progress = Callable[[int, int], None]
Call = Callable[[list[Any]], Sequence[Any]]

_CHUNK = 512
"""Inputs a call: enough to sort them by length, and progress is seen."""


def answer_all(
    runtime: TextRuntime, examples: Examples, on_progress: Progress | None = None
) -> list[Any]:
    """Answer each example.

    Args:
        runtime: of the task the examples were made for; with an engine or a graph.
        examples: what to ask.
        on_progress: called with (inputs done, inputs in all).

    Returns:
        One answer an example: scores: cosine of the embeddings, or the logit; labels: an index;
        answers: a text, empty for none; entities: a set of (label, begin, end); rankings: a score
        each passage; tokens: the log-likelihood of each.

    Raises:
        CalibrationError: when a text cannot be asked.
    """
    with warnings.catch_warnings():
        # every model compared cuts the same text at the same token
        warnings.simplefilter("ignore", TruncationWarning)
        try:
            return _ANSWER[examples.form](runtime, examples, on_progress)
        except TextError as error:
            raise CalibrationError(f"{examples.source}: {error}") from error


def _chunked(call: Call, inputs: Sequence[Any], on_progress: Progress | None) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(inputs), _CHUNK):
        answers.extend(call(list(inputs[start : start + _CHUNK])))
        if on_progress is not None:
            on_progress(len(answers), len(inputs))
    return answers


def _scores(runtime: Any, examples: Examples, on_progress: Progress | None) -> list[Any]:
    return _scored(runtime, examples.inputs, on_progress)


def _scored(runtime: Any, texts: Sequence[Any], on_progress: Progress | None) -> list[Any]:
    """One number a text or pair."""
    if runtime.task == "embedding":
        return _cosines(runtime, texts, on_progress)

    def logits(chunk: list[Any]) -> list[float]:
        answers = runtime(chunk, top_k=None, function_to_apply="none")
        return [labels[0]["score"] for labels in answers]

    return _chunked(logits, texts, on_progress)


def _rankings(runtime: Any, examples: Examples, on_progress: Progress | None) -> list[Any]:
    pairs = [(query, passage) for query, *passages in examples.inputs for passage in passages]
    scores = np.array(_scored(runtime, pairs, on_progress), np.float64)
    counts = [len(passages) for _, *passages in examples.inputs]
    return np.split(scores, np.cumsum(counts)[:-1])


def _tokens(runtime: Any, examples: Examples, on_progress: Progress | None) -> list[Any]:
    found: list[Any] = []
    for text in examples.inputs:
        found += log_likelihoods(runtime, [text])
        if on_progress is not None:
            on_progress(len(found), len(examples.inputs))
    if not any(values.size for values in found):
        raise CalibrationError(f"{examples.source}: no text has a token that can be masked")
    return found


def _cosines(
    runtime: Any, pairs: Sequence[tuple[str, str]], on_progress: Progress | None
) -> list[Any]:
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = np.asarray(_chunked(runtime, texts, on_progress), np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    places = {text: at for at, text in enumerate(texts)}
    first, second = np.array([[places[text] for text in pair] for pair in pairs]).T
    cosines: list[float] = (vectors[first] * vectors[second]).sum(axis=1).tolist()
    return cosines


def _labels(runtime: Any, examples: Examples, on_progress: Progress | None) -> list[Any]:
    def indices(texts: list[Any]) -> list[int]:
        return [runtime.spec.labels.index(best["label"]) for best in runtime(texts)]

    return _chunked(indices, examples.inputs, on_progress)


def _answers(runtime: Any, examples: Examples, on_progress: Progress | None) -> list[Any]:
    may_be_none = any("" in accepted for accepted in examples.expected)

    def texts(questions: list[Any]) -> list[str]:
        found = runtime(questions, handle_impossible_answer=may_be_none)
        return [answer["answer"] for answer in found]

    return _chunked(texts, examples.inputs, on_progress)


def _entities(runtime: Any, examples: Examples, on_progress: Progress | None) -> list[Any]:
    def found(texts: list[Any]) -> list[frozenset[tuple[str, int, int]]]:
        return [
            frozenset((one["entity_group"], one["start"], one["end"]) for one in entities)
            for entities in runtime(texts, aggregation_strategy="first")
        ]

    return _chunked(found, examples.inputs, on_progress)


_ANSWER: Mapping[Form, Callable[[Any, Examples, Progress | None], list[Any]]] = {
    "scores": _scores,
    "labels": _labels,
    "answers": _answers,
    "entities": _entities,
    "rankings": _rankings,
    "tokens": _tokens,
}
