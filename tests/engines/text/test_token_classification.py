"""Tokens and entities against the token-classification pipeline of transformers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import transformers

from fuselage.engines.text.encoder import TruncationWarning
from fuselage.engines.text.entities import keep_longest, touches_no_blank
from fuselage.errors import TextError

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
STRATEGIES = ["none", "simple", "first", "average", "max"]


def build(family: Any) -> Any:
    labels = dict(enumerate(LABELS))
    model = family.model(
        "ForTokenClassification",
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
        num_labels=len(LABELS),
    )
    pipe = transformers.pipeline("token-classification", model=model, tokenizer=family.tokenizer)
    runtime = family.runtime(model, task="token-classification", outputs=("logits",), labels=LABELS)

    def reference(texts: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
            return pipe(texts, **options)

    return runtime, reference


def assert_same(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, list):
            assert_same(mine, other)
            continue
        assert {**mine, "score": 0} == {**other, "score": 0}
        assert type(mine["score"]) is float
        assert mine["score"] == pytest.approx(float(other["score"]), abs=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_equal_transformers(any_family: Any, texts: list[str], strategy: str) -> None:
    runtime, reference = build(any_family)
    ours = runtime(texts, aggregation_strategy=strategy)
    assert sum(map(len, ours)) > len(texts)
    assert_same(ours, reference(texts, aggregation_strategy=strategy))
    assert_same(
        runtime(texts[1], aggregation_strategy=strategy),
        reference(texts[1], aggregation_strategy=strategy),
    )


@pytest.mark.parametrize("strategy", ["none", "simple", "average"])
@pytest.mark.parametrize("ignored", [[], ["O", "PER", "B-PER"]])
def test_ignored_labels_equal_transformers(
    bert: Any, texts: list[str], strategy: str, ignored: list[str]
) -> None:
    runtime, reference = build(bert)
    options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
    assert_same(runtime(texts, **options), reference(texts, **options))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_long_text_is_cut_like_transformers(any_family: Any, long_text: str, strategy: str) -> None:
    runtime, reference = build(any_family)
    with pytest.warns(TruncationWarning, match="1 of 1 texts"):
        ours = runtime(long_text, aggregation_strategy=strategy)
    assert_same(ours, reference(long_text, aggregation_strategy=strategy))


@pytest.mark.parametrize("stride", [0, 7, 20])
def test_windows_equal_transformers(
    any_family: Any, long_text: str, texts: list[str], stride: int
) -> None:
    runtime, reference = build(any_family)
    options = {"aggregation_strategy": "first", "stride": stride}
    many = [texts[0], long_text, texts[3]]
    ours = runtime(many, **options)
    assert max(entity["end"] for entity in ours[1]) > len(long_text) - 60
    assert_same(ours, [reference(text, **options) for text in many])


def test_offsets_point_into_the_text(any_family: Any, texts: list[str]) -> None:
    runtime, _ = build(any_family)
    for text, entities in zip(texts, runtime(texts, ignore_labels=()), strict=True):
        covered = "".join(text[entity["start"] : entity["end"]] for entity in entities)
        kept = {char for char in text if not char.isspace()} - {"\u200d", "\u0301", "\u0308"}
        assert kept <= set(covered)


@pytest.mark.parametrize("text", ["a bc  d", " x", "ab\u4f60 \U0001f600y ", ""])
def test_words_begin_at_blanks(text: str) -> None:
    starts = np.arange(len(text) + 1)
    expected = [start > 0 and " " not in text[start - 1 : start + 1] for start in starts]
    assert touches_no_blank(text, starts).tolist() == expected


def test_overlaps_keep_the_longer_then_the_better() -> None:
    def entity(start: int, end: int, score: float) -> dict[str, Any]:
        return {"start": start, "end": end, "score": score}

    found = [entity(9, 12, 0.5), entity(0, 4, 0.1), entity(2, 9, 0.2), entity(3, 10, 0.3)]
    assert keep_longest(found) == [entity(3, 10, 0.3)]
    assert keep_longest([entity(0, 2, 0.9), entity(2, 4, 0.1)]) == [
        entity(0, 2, 0.9),
        entity(2, 4, 0.1),
    ]
    assert keep_longest([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation_strategy": "best"}, "aggregation_strategy: expected one of .*'best'"),
        ({"stride": 4}, "stride: expected an aggregation_strategy other than 'none'"),
        ({"stride": 38, "aggregation_strategy": "simple"}, "stride: expected 0 to 37 .* got 38"),
    ],
)
def test_bad_options_are_named(bert: Any, options: Any, message: str) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match=message):
        runtime("a text", **options)
