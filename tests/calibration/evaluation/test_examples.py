from __future__ import annotations

import pytest

from fuselage.calibration.evaluation.examples import Judged, make_examples
from fuselage.calibration.evaluation.records import EvaluationFile
from fuselage.errors import CalibrationError

EMBEDDING = Judged(task="embedding")
CROSS = Judged(task="sequence-classification", labels=("LABEL_0",), activation="sigmoid")
MOODS = Judged(task="sequence-classification", labels=("bad", "good"))
QUESTIONS = Judged(task="question-answering")
ENTITIES = Judged(task="token-classification", labels=("O", "B-PER", "I-PER", "LOC"))


def file(*rows, columns=None):
    records = [(f"f.jsonl: line {number}", row) for number, row in enumerate(rows, start=1)]
    return EvaluationFile(records=tuple(records), source="f.jsonl", columns=columns or {})


def pair(score, **more):
    return {"sentence1": "a", "sentence2": "b", "score": score} | more


def test_pairs_with_scores():
    found = make_examples(file(pair(1.5), pair("4")), EMBEDDING, ["spearman"])
    assert (found.form, found.inputs, found.expected) == (
        "scores", (("a", "b"), ("a", "b")), (1.5, 4.0),
    )  # fmt: skip


def test_usual_names_are_found_and_others_can_be_named():
    rows = [{"premise": "p", "hypothesis": "h", "label": 0.5, "gold": at} for at in (1, 2)]
    assert make_examples(file(*rows[:1], rows[1] | {"label": 2}), CROSS).expected == (0.5, 2.0)
    named = file(*rows, columns={"score": "gold"})
    assert make_examples(named, CROSS).expected == (1.0, 2.0)
    assert make_examples(named, CROSS).inputs[0] == ("p", "h")


def test_cross_encoder_may_also_read_one_text():
    rows = [{"text": "t", "score": 1}, {"text": "u", "score": 2}]
    assert make_examples(file(*rows), CROSS).inputs == ("t", "u")
    with pytest.raises(CalibrationError, match="expected columns for text, pair, score"):
        make_examples(file(*rows), EMBEDDING)


def test_labels_by_name_and_by_index():
    rows = [{"text": "t", "label": label} for label in ("good", "bad", 1, "0", 1.0)]
    assert make_examples(file(*rows), MOODS, ["f1"]).expected == (1, 0, 1, 0, 1)


def test_a_label_that_is_called_like_an_index_goes_by_its_name():
    judged = Judged(task="sequence-classification", labels=("1", "0"))
    rows = [{"text": "t", "label": label} for label in ("0", "1")]
    assert make_examples(file(*rows), judged).expected == (1, 0)


def test_answers_as_text_list_and_squad_object():
    rows = [
        {"question": "q", "context": "c", "answers": answers}
        for answers in ("a", ["a", "b"], {"text": ["a"], "answer_start": [0]}, [])
    ]
    found = make_examples(file(*rows), QUESTIONS, ["exact_match", "f1"])
    assert found.expected == (("a",), ("a", "b"), ("a",), ("",))
    assert found.inputs[0] == ("q", "c")


def test_tags_become_entities_with_places():
    words = ["Ann", "Lee", "met", "Bo", "in", "New", "York"]
    tags = ["B-PER", "I-PER", "O", 1, 0, "LOC", "LOC"]
    found = make_examples(file({"tokens": words, "tags": tags}), ENTITIES)
    assert found.inputs == ("Ann Lee met Bo in New York",)
    assert found.expected == (frozenset({("PER", 0, 7), ("PER", 12, 14), ("LOC", 18, 26)}),)


def test_neighbours_that_both_begin_are_two():
    row = {"tokens": ["Ann", "Bo"], "tags": ["B-PER", "B-PER"]}
    assert len(make_examples(file(row), ENTITIES).expected[0]) == 2


@pytest.mark.parametrize(
    ("judged", "row", "message"),
    [
        (EMBEDDING, pair("high"), "line 1: column 'score': expected a finite number, got 'high'"),
        (EMBEDDING, pair(float("nan")), "expected a finite number, got nan"),
        (EMBEDDING, pair(True), "expected a finite number, got True"),
        (EMBEDDING, pair(None), "expected a finite number, got None"),
        (EMBEDDING, pair(1, sentence2=" "), "column 'sentence2': expected a text, got ' '"),
        (EMBEDDING, pair(1, sentence1="\ud800"), "half of a surrogate pair"),
        (EMBEDDING, {"a": "x", "score": 1}, r"found none for text and pair; its columns are 'a', 's"
         r"core'; say which one it is with --data-column text=NAME \(of "
         "a build: --eval-column"),
        (MOODS, {"text": "t", "label": "great"},
         "column 'label': expected one of the model's labels 'bad', 'good' or 0 to 1, got 'great'"),
        (MOODS, {"text": "t", "label": 2}, "or 0 to 1, got 2"),
        (MOODS, {"text": "t", "label": -1}, "or 0 to 1, got -1"),
        (MOODS, {"text": "t", "label": 0.5}, "or 0 to 1, got 0.5"),
        (QUESTIONS, {"question": "q", "context": "c", "answers": 3},
         "column 'answers': expected a text, a list of texts"),
        (QUESTIONS, {"question": "q", "context": "", "answers": "a"}, "expected a text, got ''"),
        (ENTITIES, {"tokens": ["a", "b"], "tags": ["O"]}, "expected a list of 2 tags, one a word"),
        (ENTITIES, {"tokens": "a b", "tags": ["O"]}, "column 'tokens': expected a list of words"),
        (ENTITIES, {"tokens": ["a"], "tags": ["B-ORG"]}, "one of the model's labels 'O', 'B-PER'"),
    ],
)  # fmt: skip
def test_bad_rows_are_named_with_their_line(judged, row, message):
    with pytest.raises(CalibrationError, match=message):
        make_examples(file(row), judged)


def test_a_later_row_without_the_column_is_named():
    with pytest.raises(CalibrationError, match=r"line 2: expected a column 'score', which is miss"):
        make_examples(file(pair(1), {"sentence1": "a", "sentence2": "b"}), EMBEDDING)


def test_a_named_column_that_is_not_there():
    with pytest.raises(CalibrationError, match=r"line 1: there is no column 'gold'; its columns"):
        make_examples(file(pair(1), columns={"score": "gold"}), EMBEDDING)


def test_scores_must_differ():
    with pytest.raises(CalibrationError, match="expected scores that differ, all 2 are 1"):
        make_examples(file(pair(1), pair(1)), EMBEDDING)


@pytest.mark.parametrize(
    ("judged", "metric", "message"),
    [
        (EMBEDDING, "accuracy", r"metric 'accuracy': .* \(embedding, .*; expected spearman"),
        (MOODS, "spearman", "expected accuracy or f1"),
        (QUESTIONS, "accuracy", "expected f1 or exact_match"),
    ],
)
def test_metric_that_does_not_fit_the_task(judged, metric, message):
    with pytest.raises(CalibrationError, match=message):
        make_examples(file({"a": 1}), judged, [metric])


def test_tasks_that_no_metric_judges():
    with pytest.raises(CalibrationError, match="no metric judges the task 'feature-extraction'"):
        make_examples(file({"a": 1}), Judged(task="feature-extraction"))
    several = Judged(task="sequence-classification", labels=("a", "b"), activation="sigmoid")
    with pytest.raises(CalibrationError, match="several labels of this model may hold at once"):
        make_examples(file({"a": 1}), several)


def test_examples_that_say_little_are_pointed_out():
    rows = [{"text": f"text {at}", "label": "good"} for at in range(10)]
    (one_label,) = make_examples(file(*rows), MOODS).notes()
    assert "all 10 examples of f.jsonl have the same label" in one_label
    rows[0] = rows[0] | {"label": "bad"}
    assert list(make_examples(file(*rows, rows[0]), MOODS).notes()) == []  # one in eleven
    (repeated,) = make_examples(file(*rows, *rows[:5]), MOODS).notes()
    assert "5 of 15 examples of f.jsonl ask what another one asks" in repeated


def ranking(**more):
    return {"query": "q", "positive": ["a", "b"], "negative": ["c"]} | more


@pytest.mark.parametrize("judged", [EMBEDDING, CROSS])
def test_passages_to_rank_are_told_by_their_columns(judged):
    found = make_examples(file(ranking(), ranking(positive="d")), judged, ["mrr"])
    assert (found.form, found.inputs, found.expected) == (
        "rankings", (("q", "a", "b", "c"), ("q", "d", "c")), (2, 1),
    )  # fmt: skip


@pytest.mark.parametrize("value", [[], "", [""], [1], None])
def test_passages_that_are_none(value):
    with pytest.raises(CalibrationError, match="line 1: column 'negative': expected a text or a"):
        make_examples(file(ranking(negative=value)), EMBEDDING)


def test_texts_of_a_masked_language_model():
    found = make_examples(file({"text": "t"}), Judged(task="fill-mask"), ["pseudo_perplexity"])
    assert (found.form, found.inputs, found.expected) == ("tokens", ("t",), (None,))
