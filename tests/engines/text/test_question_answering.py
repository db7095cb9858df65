"""Answers against the span search of transformers over windows of its tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.pipelines.document_question_answering import select_starts_ends

from fuselage.errors import TextError

QUESTION = "what is the capital of France?"
CONTEXT = "the capital of France is Paris. Alice Smith works in Zürich & Berlin since 1999."
UNICODE = "你好世界 😀 combining e\u0301 marks, שלום עולם and ☃ snowmen near Berlin"


def build(family: Any) -> Any:
    model = family.model("ForQuestionAnswering")
    runtime = family.runtime(
        model, task="question-answering", outputs=("start_logits", "end_logits")
    )
    return runtime, model


def span(encoding: Any, first: int, last: int, align: bool) -> tuple[int, int]:
    words = encoding.token_to_word(first), encoding.token_to_word(last)
    if not align or None in words:
        return encoding.offsets[first][0], encoding.offsets[last][1]
    return encoding.word_to_chars(words[0], 1)[0], encoding.word_to_chars(words[1], 1)[1]


def reference(
    family: Any,
    model: Any,
    question: str,
    context: str,
    *,
    top_k: int = 1,
    window: int = 40,
    stride: int = 20,
    longest: int = 15,
    impossible: bool = False,
    align: bool = True,
) -> list[dict[str, Any]]:
    """The pipeline of transformers 4.57, one window at a time."""
    encoded = family.tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=window,
        stride=stride,
        return_overflowing_tokens=True,
    )
    answers: list[dict[str, Any]] = []
    null = 1_000_000.0
    for encoding in encoded.encodings:
        ids = np.array(encoding.ids)
        blocked = np.array([sequence != 1 for sequence in encoding.sequence_ids])
        blocked[ids == family.tokenizer.cls_token_id] = False
        row = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        feeds = {name: torch.tensor([row[name]]) for name in row if name in family.spec.inputs}
        with torch.inference_mode():
            logits = model(**feeds)
        starts, ends, scores, null = select_starts_ends(
            logits.start_logits.numpy(),
            logits.end_logits.numpy(),
            blocked.astype(int)[None],
            np.ones((1, ids.size), int),
            null,
            top_k * 2 + 10 if align else top_k,
            impossible,
            longest,
        )
        for first, last, score in zip(starts, ends, scores, strict=True):
            if first > last or first == 0:
                continue  # a span of score 0 that is none
            start, end = span(encoding, int(first), int(last), align)
            text = context[start:end]
            known = [answer for answer in answers if answer["answer"].lower() == text.lower()]
            if known:
                known[0]["score"] += float(score)
            else:
                answers.append({"score": float(score), "start": start, "end": end, "answer": text})
    if impossible:
        answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
    return sorted(answers, key=lambda answer: -answer["score"])[:top_k]


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert {**mine, "score": 0} == {**other, "score": 0}
        assert type(mine["score"]) is float
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"top_k": 4}, {"top_k": 4}),
        ({"top_k": 4, "align_to_words": False}, {"top_k": 4, "align": False}),
        ({"top_k": 3, "max_answer_len": 2}, {"top_k": 3, "longest": 2}),
        ({"top_k": 50, "handle_impossible_answer": True}, {"top_k": 50, "impossible": True}),
        ({"top_k": 3, "max_seq_len": 36, "doc_stride": 3}, {"top_k": 3, "window": 36, "stride": 3}),
    ],
)
@pytest.mark.parametrize("context", [CONTEXT, UNICODE])
def test_answers_equal_transformers(
    any_family: Any, context: str, options: Any, theirs: Any
) -> None:
    runtime, model = build(any_family)
    stride = {"doc_stride": 5} | options
    ours = runtime(question="what?", context=context, **stride)
    expected = reference(any_family, model, "what?", context, **({"stride": 5} | theirs))
    assert_same(ours, expected)


def test_long_context_is_read_in_windows(any_family: Any, texts: list[str]) -> None:
    runtime, model = build(any_family)
    context = "; ".join(texts * 2) + " Alice Smith in Paris."
    ours = runtime(question="who?", context=context, top_k=5, doc_stride=8)
    assert sum(shape[0] for shape in runtime.engine.shapes) > 10
    assert_same(ours, reference(any_family, model, "who?", context, top_k=5, stride=8))
    every = runtime(question="who?", context=context, top_k=10_000, doc_stride=8)
    assert max(answer["end"] for answer in every) == len(context)
    assert {answer["answer"] for answer in every} >= {"Alice Smith", "Paris"}


def test_every_form_of_input_gives_the_same(bert: Any) -> None:
    runtime, model = build(bert)
    (first,) = reference(bert, model, QUESTION, CONTEXT, stride=20)
    (second,) = reference(bert, model, "who?", UNICODE, stride=20)
    dicts = [
        {"question": QUESTION, "context": CONTEXT},
        {"question": "who?", "context": UNICODE},
    ]
    for ours in (
        runtime(dicts),
        runtime([(QUESTION, CONTEXT), ("who?", UNICODE)]),
        runtime(question=[QUESTION, "who?"], context=[CONTEXT, UNICODE]),
    ):
        assert_same(ours, [first, second])
    for one in (runtime(dicts[0]), runtime(question=QUESTION, context=CONTEXT)):
        assert_same([one], [first])
    assert_same(runtime(question=[QUESTION, QUESTION], context=CONTEXT), [first, first])


def test_impossible_answer_wins_when_the_first_token_does(bert: Any, fixed_engine: Any) -> None:
    from fuselage.engines.text.pipeline import text_pipeline

    def first_token(feeds: Any) -> Any:
        logits = np.zeros(feeds["input_ids"].shape, np.float32)
        logits[:, 0] = 9.0
        return {"start_logits": logits, "end_logits": logits}

    spec = type(bert.spec)(
        **(
            vars(bert.spec)
            | {
                "task": "question-answering",
                "inputs": ("input_ids",),
                "outputs": ("start_logits", "end_logits"),
            }
        )
    )
    runtime = text_pipeline(fixed_engine(first_token, spec.outputs), bert.path, spec)
    nothing = runtime(question="who?", context="the fox", handle_impossible_answer=True)
    assert nothing["answer"] == ""
    assert (nothing["start"], nothing["end"]) == (0, 0)
    # softmax over [CLS] and the tokens of "the fox", of which each has logit 0
    tokens = len(bert.tokenizer("the fox")["input_ids"]) - 2
    share = np.exp(9.0) / (np.exp(9.0) + tokens)
    assert nothing["score"] == pytest.approx(share**2, abs=1e-6)
    assert runtime(question="who?", context="the fox")["answer"] != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "a"}, "expected a question and a context, got no context"),
        ({"context": "a"}, "expected a question and a context, got no question"),
        ({"question": ["a", "b"], "context": ["c"]}, "got 2 questions and 1 contexts"),
        ({"inputs": [("a", "b")], "question": "c"}, "got both"),
        ({"inputs": [{"question": "a"}]}, "question 0: expected a dict with the keys"),
        ({"inputs": [("a", "b"), ("a", " ")]}, "text 1: expected some text, got ' '"),
        ({"question": "a", "context": "b", "top_k": 0}, "top_k: expected an integer >= 1"),
        ({"question": "a", "context": "b", "max_answer_len": 0}, "max_answer_len: expected"),
        ({"question": "a", "context": "b", "max_seq_len": 41}, "max_seq_len: expected 1 to 40"),
        ({"question": "a", "context": "b", "doc_stride": -1}, "doc_stride: expected an integer"),
        ({"question": "a", "context": "\u200b"}, "question 0: expected a context with tokens"),
    ],
)
def test_bad_inputs_are_named(bert: Any, arguments: Any, message: str) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match=message):
        runtime(**arguments)


@pytest.mark.parametrize("question", ["fox " * 40, "fox " * 20])
def test_question_that_leaves_no_room_is_refused(bert: Any, question: str, long_text: str) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match=r"question 1: its .* tokens leave room for .* of 40"):
        runtime([("who?", "the fox"), (question, long_text)])


def test_long_question_with_a_short_context_fits(bert: Any) -> None:
    runtime, model = build(bert)
    question = "fox " * 25
    ours = runtime(question=question, context="the fox", top_k=2)
    assert_same(ours, reference(bert, model, question, "the fox", top_k=2, stride=0))
