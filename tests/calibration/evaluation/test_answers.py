from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.evaluation.answers import answer_all
from fuselage.calibration.evaluation.examples import Examples
from fuselage.errors import CalibrationError


def examples(form, inputs, expected):
    return Examples(
        form=form, inputs=tuple(inputs), expected=tuple(expected), source="f.jsonl", digest=""
    )


def first_letter(ids):
    """Logit 1 for the label of a text that begins with b, else for the other."""
    is_b = ids[:, 0] == 5
    return {"logits": np.stack([~is_b, is_b], axis=1).astype(np.float32)}


def length(ids):
    return {"logits": (ids > 0).sum(axis=1, keepdims=True).astype(np.float32)}


def count_letters(ids):
    """How often a and b occur."""
    return {"logits": np.stack([(ids == 4).sum(1), (ids == 5).sum(1)], 1).astype(np.float32)}


def test_cosine_of_embeddings_that_are_not_normalised(runtime):
    pairs = [("ab", "aabb"), ("a", "b"), ("aaab", "a"), ("ab", "a")]
    with runtime(count_letters, task="embedding", dimension=2) as embed:
        answers = answer_all(embed, examples("scores", pairs, [5, 0, 4, 3]))
    np.testing.assert_allclose(answers, [1, 0, 3 / 10**0.5, 1 / 2**0.5], atol=1e-7)


def test_each_text_is_embedded_once(runtime):
    seen = []

    def rule(ids):
        seen.append(len(ids))
        return count_letters(ids)

    pairs = [("ab", "aabb")] * 20 + [("aabb", "ab")]
    with runtime(rule, task="embedding", dimension=2) as embed:
        assert len(answer_all(embed, examples("scores", pairs, range(21)))) == 21
    assert sum(seen) == 2


def test_logit_of_a_cross_encoder_without_its_sigmoid(runtime):
    with runtime(
        length, task="sequence-classification", labels=("LABEL_0",), activation="sigmoid"
    ) as judge:
        answers = answer_all(judge, examples("scores", [("aaaa", "bb"), ("a", "b")], [1, 0]))
    assert answers == [6.0, 2.0]


def test_labels_in_the_order_of_the_examples(runtime):
    texts = ["bbb", "a", "b", "aaaaaaa", "ba"]
    with runtime(first_letter, task="sequence-classification", labels=("no", "yes")) as classify:
        answers = answer_all(classify, examples("labels", texts, [0] * 5))
    assert answers == [1, 0, 1, 0, 1]


def span_of_digits(ids):
    is_digit = (ids >= 30) & (ids < 40)
    start = np.where(is_digit & ~np.roll(is_digit, 1, axis=1), 9.0, -9.0)
    end = np.where(is_digit & ~np.roll(is_digit, -1, axis=1), 9.0, -9.0)
    return {"start": start.astype(np.float32), "end": end.astype(np.float32)}


def test_spans_are_cut_from_the_context(runtime):
    questions = [("when?", "it was in 1066 or so"), ("when?", "in 45")]
    with runtime(span_of_digits, task="question-answering", outputs=("start", "end")) as answer:
        found = answer_all(answer, examples("answers", questions, [("1066",), ("45",)]))
    # words of this tokenizer are characters, so an answer is not widened
    assert found == ["1066", "45"]


def entity_of_digits(ids):
    is_digit = (ids >= 30) & (ids < 40)
    return {"logits": np.stack([~is_digit, is_digit], axis=-1).astype(np.float32) * 9}


def test_entities_with_their_places(runtime):
    with runtime(entity_of_digits, task="token-classification", labels=("O", "NUM")) as label:
        found = answer_all(label, examples("entities", ["in 1066 or 7", "x"], [set(), set()]))
    assert found == [{("NUM", 3, 7), ("NUM", 11, 12)}, set()]


def test_progress_counts_texts(runtime):
    seen = []
    texts = [f"a{number}" for number in range(600)]
    with runtime(first_letter, task="sequence-classification", labels=("no", "yes")) as classify:
        answer_all(classify, examples("labels", texts, [0] * 600), lambda *done: seen.append(done))
    assert seen == [(512, 600), (600, 600)]


def test_long_texts_are_cut_without_a_warning_and_impossible_ones_are_named(runtime):
    with runtime(length, task="sequence-classification", labels=("x",)) as judge:
        assert answer_all(judge, examples("scores", ["a" * 900, "b"], [1, 0])) == [64.0, 1.0]
    with (
        runtime(span_of_digits, task="question-answering", outputs=("start", "end")) as answer,
        pytest.raises(CalibrationError, match=r"f\.jsonl: question 0: its \d+ tokens leave room"),
    ):
        answer_all(answer, examples("answers", [("q" * 70, "c" * 70)], [("c",)]))


def test_passages_are_scored_against_their_query(runtime):
    asked = [("ab", "aabb", "a"), ("b", "a", "b", "ab")]
    with runtime(count_letters, task="embedding", dimension=2) as embed:
        first, second = answer_all(embed, examples("rankings", asked, [1, 1]))
    np.testing.assert_allclose(first, [1, 1 / 2**0.5], atol=1e-7)
    np.testing.assert_allclose(second, [0, 1, 1 / 2**0.5], atol=1e-7)


MASK = 1  # [UNK] of the tokenizer, which no text here has


def neighbour(ids):
    """Finds a masked token e times as likely to be its left neighbour as any other one."""
    logits = np.zeros((*ids.shape, 42), np.float32)
    rows, places = np.nonzero(ids == MASK)
    assert (np.bincount(rows, minlength=len(ids)) == 1).all()
    logits[rows, places, ids[rows, places - 1]] = 1.0
    return {"logits": logits}


def test_each_token_is_masked_once(runtime):
    with runtime(neighbour, task="fill-mask", mask_token="[UNK]", mask_token_id=MASK) as fill:
        long, short = answer_all(fill, examples("tokens", ["abbb", "aa"], [None, None]))
    likely, other = 1 - np.log(41 + np.e), -np.log(41 + np.e)
    # the first token has the last place, a padding or a token, as its neighbour
    np.testing.assert_allclose(long[1:], [other, likely, likely], atol=1e-6)
    np.testing.assert_allclose(short[1:], [likely], atol=1e-6)
    assert (len(long), len(short)) == (4, 2)
