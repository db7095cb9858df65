"""Hidden states against the feature-extraction pipeline of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers

from fuselage.engines.text.encoder import TruncationWarning


def reference(family: Any, model: Any, texts: list[str]) -> list[np.ndarray[Any, Any]]:
    pipe = transformers.pipeline("feature-extraction", model=model, tokenizer=family.tokenizer)
    return [np.array(states) for states in pipe(texts, truncation=True)]


def test_states_equal_transformers(any_family: Any, texts: list[str]) -> None:
    model = any_family.model("")
    runtime = any_family.runtime(model)
    for ours, theirs in zip(runtime(texts), reference(any_family, model, texts), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_one_text_keeps_the_leading_axis(any_family: Any) -> None:
    model = any_family.model("")
    ours = any_family.runtime(model)("the quick brown fox")
    (theirs,) = reference(any_family, model, ["the quick brown fox"])
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_long_text_is_cut_like_transformers(any_family: Any, long_text: str) -> None:
    model = any_family.model("")
    with pytest.warns(TruncationWarning, match="1 of 2 texts are longer than 40 tokens"):
        ours = any_family.runtime(model)(["x", long_text])
    theirs = reference(any_family, model, ["x", long_text])
    assert ours[1].shape == (1, 40, 32)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5, rtol=0)


def test_padding_on_the_left_gives_the_same(roberta: Any, texts: list[str]) -> None:
    # RoBERTa counts positions from the first real token, so the side must not matter
    model = roberta.model("")
    right = roberta.runtime(model)(texts)
    left = roberta.runtime(model, padding_side="left")(texts)
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_a_text_alone_in_a_batch_and_padded_gives_the_same(
    any_family: Any, texts: list[str]
) -> None:
    model = any_family.model("")
    runtime = any_family.runtime(model)
    together = runtime(texts)
    assert max(shape[0] for shape in runtime.engine.shapes) == len(texts)
    for text, states in zip(texts, together, strict=True):
        np.testing.assert_allclose(runtime(text), states, atol=1e-5, rtol=0)
