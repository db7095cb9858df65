"""Questions about a context to the span that answers them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import TextError
from .answer_spans import Found, Span, SpanSearch, best_spans
from .runtime import Steps, TextRuntime, in_steps
from .scores import check_top_k
from .texts import checked, listed

if TYPE_CHECKING:
    from tokenizers import Encoding

    from .encoder import Encoded

Answer = dict[str, Any]
"""``score`` (float), ``start`` and ``end`` (characters of the context), ``answer`` (str)."""

Question = Mapping[str, str] | tuple[str, str]
"""``question`` and ``context``, as a dict or in this order."""

WINDOW = 384
DOC_STRIDE = 128
"""Defaults of transformers' pipeline."""


class QuestionAnswering(TextRuntime):
    """Answers like the question-answering pipeline of transformers 4 (5 has none).

    Two of its faults are left out: spans that end before they begin, with score 0, and the list
    that becomes a dict when only one of several wanted answers was found.
    """

    task = "question-answering"

    @in_steps
    def __call__(
        self,
        inputs: Question | Iterable[Question] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Steps[Any]:
        """Answer one question or many, each from its context.

        A context that does not fit is read in overlapping windows; nothing is cut.

        Args:
            inputs: ``{"question": ..., "context": ...}``, (question, context), or a list of those.
            question: instead of inputs: one or many.
            context: with question: one for all of them, or one each.
            top_k: answers wanted; spans with the same text are one answer, their scores added.
            doc_stride: tokens that neighbouring windows share; by default 128 or half a window.
            max_answer_len: tokens of the longest answer.
            max_seq_len: tokens of a window; by default 384 or what the model takes.
            handle_impossible_answer: also consider the answer "" (start and end 0).
            align_to_words: widen answers to whole words.

        Returns:
            An answer when top_k is 1, else a list of at most top_k, best first; a list with one
            such result a question for a list of questions.

        Raises:
            TextError: on empty or missing texts, an option below 1, or a question that leaves no
                room for its context.
        """
        items, is_one = _questions(inputs, question, context)
        check_top_k(top_k)
        if max_answer_len < 1:
            raise TextError(f"max_answer_len: expected an integer >= 1, got {max_answer_len}")
        search = SpanSearch(
            top_k=top_k,
            max_answer_len=max_answer_len,
            handle_impossible_answer=handle_impossible_answer,
            align_to_words=align_to_words,
        )
        encoded = self._encode(items, max_seq_len, doc_stride)
        answers = yield from self._answers(encoded, [context for _, context in items], search)
        results = [found[0] for found in answers] if top_k == 1 else answers
        return results[0] if is_one else results

    def _encode(
        self, items: list[tuple[str, str]], max_seq_len: int | None, doc_stride: int | None
    ) -> Encoded:
        checked(items)
        limit = self.encoder.max_tokens
        window = min(limit, WINDOW) if max_seq_len is None else max_seq_len
        stride = min(window // 2, DOC_STRIDE) if doc_stride is None else doc_stride
        if not 1 <= window <= limit:
            raise TextError(f"max_seq_len: expected 1 to {limit} (the model's limit), got {window}")
        if stride < 0:
            raise TextError(f"doc_stride: expected an integer >= 0, got {stride}")
        self._check_room(items, window, stride)
        is_question_first = self.spec.padding_side == "right"
        return self.encoder.encode_windows(
            items if is_question_first else [(context, question) for question, context in items],
            max_tokens=window,
            stride=stride,
            strategy="only_second" if is_question_first else "only_first",
        )

    def _check_room(self, items: list[tuple[str, str]], window: int, stride: int) -> None:
        asked = self.encoder.count_tokens([question for question, _ in items])
        rooms = window - self.encoder.special_tokens(pair=True) - asked
        for index in np.flatnonzero(rooms <= stride):
            if self.encoder.count_tokens([items[index][1]])[0] > rooms[index]:
                raise TextError(
                    f"question {index}: its {asked[index]} tokens leave room for "
                    f"{max(0, rooms[index])} of the context in a window of {window}, expected more "
                    f"than doc_stride ({stride}); shorten the question, lower doc_stride or raise "
                    "max_seq_len"
                )

    def _answers(
        self, encoded: Encoded, contexts: list[str], search: SpanSearch
    ) -> Steps[list[list[Answer]]]:
        found: dict[int, Found] = {}
        for batch in (yield encoded):
            rows = zip(batch.rows.tolist(), batch.tokens(0), batch.tokens(1), strict=True)
            for row, starts, ends in rows:
                mask = self._mask(encoded.encodings[row])
                found[row] = best_spans(starts, ends, mask, search)
        merged: list[list[Answer]] = [[] for _ in contexts]
        nulls = [1.0] * len(contexts)
        for row, source in enumerate(encoded.sources.tolist()):
            encoding, context = encoded.encodings[row], contexts[source]
            nulls[source] = min(nulls[source], found[row].null_score)
            for span in found[row].spans:
                _add(merged[source], self._answer(encoding, context, span, search))
        empty = [source for source, answers in enumerate(merged) if not answers]
        if empty:
            raise TextError(f"question {empty[0]}: expected a context with tokens, got none")
        if search.handle_impossible_answer:
            for answers, null in zip(merged, nulls, strict=True):
                answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
        return [
            sorted(answers, key=lambda answer: -float(answer["score"]))[: search.top_k]
            for answers in merged
        ]

    def _mask(self, encoding: Encoding) -> NDArray[np.bool_]:
        # None (a special token) becomes nan, which equals nothing
        sequence = np.array(encoding.sequence_ids, np.float32)
        mask = sequence == (1 if self.spec.padding_side == "right" else 0)
        if self.spec.cls_token_id is not None:
            mask |= np.array(encoding.ids) == self.spec.cls_token_id
        return np.asarray(mask, np.bool_)

    def _answer(self, encoding: Encoding, context: str, span: Span, search: SpanSearch) -> Answer:
        start, end = encoding.offsets[span.first][0], encoding.offsets[span.last][1]
        words = encoding.token_to_word(span.first), encoding.token_to_word(span.last)
        if search.align_to_words and words[0] is not None and words[1] is not None:
            sequence = 1 if self.spec.padding_side == "right" else 0
            first = encoding.word_to_chars(words[0], sequence)
            last = encoding.word_to_chars(words[1], sequence)
            if first is not None and last is not None:
                start, end = first[0], last[1]
        return {"score": span.score, "start": start, "end": end, "answer": context[start:end]}


def _add(answers: list[Answer], answer: Answer) -> None:
    text = answer["answer"].lower()
    for known in answers:
        if known["answer"].lower() == text:
            known["score"] += answer["score"]
            return
    answers.append(answer)


def _questions(
    inputs: Any, question: str | Sequence[str] | None, context: str | Sequence[str] | None
) -> tuple[list[tuple[str, str]], bool]:
    if inputs is None:
        return _paired(question, context)
    if question is not None or context is not None:
        raise TextError("expected inputs, or question=... and context=..., got both")
    items, is_one = listed(inputs, (dict, tuple))
    return [_pair(item, index) for index, item in enumerate(items)], is_one


def _paired(question: Any, context: Any) -> tuple[list[tuple[str, str]], bool]:
    if question is None or context is None:
        missing = "question" if question is None else "context"
        raise TextError(f"expected a question and a context, got no {missing}")
    questions, is_one = listed(question, (str,))
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(contexts) != len(questions):
        raise TextError(
            f"expected one context, or one a question, got {len(questions)} questions and "
            f"{len(contexts)} contexts"
        )
    return list(zip(questions, contexts, strict=True)), is_one


def _pair(item: Any, index: int) -> tuple[str, str]:
    if isinstance(item, Mapping) and {"question", "context"} <= set(item):
        return item["question"], item["context"]
    if isinstance(item, tuple) and len(item) == 2:
        return item
    raise TextError(
        f"question {index}: expected a dict with the keys 'question' and 'context' or a tuple "
        f"(question, context), got {item!r:.60}"
    )
