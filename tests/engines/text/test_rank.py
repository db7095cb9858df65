"""Passages in order of a cross-encoder's scores, against sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import CrossEncoder

from fuselage.errors import TextError


def cross_encoder(family: Any, labels: tuple[str, ...] = ("LABEL_0",)) -> Any:
    model = family.model("ForSequenceClassification", num_labels=len(labels))
    runtime = family.runtime(
        model,
        task="sequence-classification",
        outputs=("logits",),
        labels=labels,
        activation="sigmoid",
    )
    return runtime, model


@pytest.mark.parametrize("options", [{}, {"top_k": 3, "return_documents": True}, {"top_k": 99}])
def test_order_and_scores_equal_sentence_transformers(
    any_family: Any, texts: list[str], long_text: str, tmp_path: Path, options: Any
) -> None:
    runtime, model = cross_encoder(any_family)
    model.save_pretrained(tmp_path)
    any_family.tokenizer.save_pretrained(tmp_path)
    passages = [*texts, long_text, texts[0]]
    with pytest.warns(UserWarning, match="of 12 texts are longer"):
        ours = runtime.rank("the quick fox", passages, **options)
    theirs = CrossEncoder(str(tmp_path), device="cpu").rank("the quick fox", passages, **options)
    assert len(ours) == min(options.get("top_k", 12), 12)
    for mine, other in zip(ours, theirs, strict=True):
        assert {**mine, "score": 0} == {**other, "score": 0}
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)


def test_logits_are_ranked_alike(bert: Any, texts: list[str]) -> None:
    runtime, _ = cross_encoder(bert)
    logits = runtime.rank(texts[0], texts, function_to_apply="none")
    assert logits[-1]["score"] < 0 or logits[0]["score"] > 1
    order = [found["corpus_id"] for found in runtime.rank(texts[0], texts)]
    assert order == [found["corpus_id"] for found in logits]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b"), "expected a list of passages, got one str"),
        (("", ["b"]), "text 0: expected some text"),
        (("a", ["b", " "]), "text 1: expected some text"),
        (("a", []), "expected at least one text"),
    ],
)
def test_bad_input_is_named(bert: Any, arguments: Any, message: str) -> None:
    runtime, _ = cross_encoder(bert)
    with pytest.raises(TextError, match=message):
        runtime.rank(*arguments)


def test_several_labels_have_no_order(bert: Any) -> None:
    runtime, _ = cross_encoder(bert, ("no", "yes"))
    with pytest.raises(TextError, match="one label, this model has 2; call it on the pairs"):
        runtime.rank("a", ["b"])
