"""Labels and scores against the text-classification pipeline of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers

from fuselage.engines.text.scores import sigmoid
from fuselage.engines.text.task import activation_of
from fuselage.errors import BundleError, TextError

LABELS = ("calm", "angry", "sad")


def build(family: Any, labels: tuple[str, ...] = LABELS, problem: str | None = None) -> Any:
    model = family.model("ForSequenceClassification")
    torch_model = type(model)
    config = type(family.config)(
        **(
            family.config.to_dict()
            | {
                "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)},
                "num_labels": len(labels),
                "problem_type": problem,
            }
        )
    )
    transformers.set_seed(3)
    model = torch_model(config).eval()
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=family.tokenizer)
    runtime = family.runtime(
        model,
        task="sequence-classification",
        outputs=("logits",),
        labels=labels,
        activation=activation_of(problem, len(labels)),
    )
    return runtime, pipe


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert isinstance(ours, list)
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
        return
    assert ours["label"] == theirs["label"]
    assert type(ours["score"]) is float
    assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": None}, {"top_k": 1}])
def test_texts_equal_transformers(any_family: Any, texts: list[str], options: Any) -> None:
    runtime, pipe = build(any_family)
    assert_same(runtime(texts, **options), pipe(texts, **options))
    assert_same(runtime(texts[1], **options), pipe(texts[1], **options))


@pytest.mark.filterwarnings("ignore::fuselage.engines.text.encoder.TruncationWarning")
@pytest.mark.parametrize("options", [{}, {"top_k": 2}])
def test_pairs_equal_transformers(any_family: Any, texts: list[str], options: Any) -> None:
    runtime, pipe = build(any_family)
    pairs = [
        {"text": first, "text_pair": second}
        for first, second in zip(texts, reversed(texts), strict=True)
    ]
    theirs = pipe(pairs, truncation=True, **options)
    assert_same(runtime(pairs, **options), theirs)
    as_tuples = [(pair["text"], pair["text_pair"]) for pair in pairs]
    assert_same(runtime(as_tuples, **options), theirs)
    assert_same(runtime(pairs[0], **options), pipe(pairs[0], **options))
    assert_same(runtime(as_tuples[0], **options), theirs[0])


@pytest.mark.parametrize(
    ("problem", "labels", "activation"),
    [
        ("multi_label_classification", LABELS, "sigmoid"),
        ("regression", ("score",), "none"),
        (None, ("relevance",), "sigmoid"),
        ("single_label_classification", LABELS, "softmax"),
    ],
)
def test_activation_is_that_of_the_problem(
    bert: Any, texts: list[str], problem: str | None, labels: tuple[str, ...], activation: str
) -> None:
    runtime, pipe = build(bert, labels, problem)
    assert runtime.spec.activation == activation
    assert_same(runtime(texts, top_k=None), pipe(texts, top_k=None))


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_function_to_apply_overrides(bert: Any, texts: list[str], function: str) -> None:
    runtime, pipe = build(bert)
    ours = runtime(texts, top_k=None, function_to_apply=function)
    assert_same(ours, pipe(texts, top_k=None, function_to_apply=function))


def test_sigmoid_does_not_overflow() -> None:
    logits = np.array([-200.0, -1.0, 0.0, 1.0, 200.0], np.float32)
    np.testing.assert_allclose(
        sigmoid(logits), [0.0, 0.26894143, 0.5, 0.7310586, 1.0], atol=1e-7, rtol=0
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected at least one text"),
        ("", "text 0: expected some text, got ''"),
        (["good", " \n"], "text 1: expected some text"),
        (["good", 3], r"text 1: expected a str, a tuple .* got 3"),
        ([("a", "b", "c")], "text 0: expected a str, a tuple"),
        ([{"text": "a", "other": "b"}], "text 0: expected a str, a tuple"),
        ([("a", None)], "text 0: expected a str, got NoneType"),
        (5, "expected a str or tuple or dict or a list of them, got int"),
    ],
)
def test_bad_inputs_are_named(bert: Any, inputs: Any, message: str) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match=message):
        runtime(inputs)


def test_bad_options_are_named(bert: Any) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match="top_k: expected an integer >= 1, got 0"):
        runtime("a", top_k=0)
    with pytest.raises(TextError, match=r"function_to_apply: expected one of .*got 'relu'"):
        runtime("a", function_to_apply="relu")


def test_other_number_of_labels_is_refused(bert: Any) -> None:
    runtime, _ = build(bert)
    wrong = bert.runtime(
        runtime.engine.module,
        task="sequence-classification",
        outputs=("logits",),
        labels=("a", "b"),
    )
    with pytest.raises(BundleError, match=r"'logits' has 3 logits, task.json names 2 labels"):
        wrong("a text")
