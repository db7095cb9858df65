"""Fillings against the fill-mask pipeline of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from fuselage.engines.text.encoder import TruncationWarning
from fuselage.errors import TextError


def build(family: Any, **changes: Any) -> Any:
    model = family.model("ForMaskedLM")
    pipe = transformers.pipeline("fill-mask", model=model, tokenizer=family.tokenizer)
    return family.runtime(model, task="fill-mask", outputs=("logits",), **changes), pipe


def assert_same(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, list):
            assert_same(mine, other)
            continue
        assert {**mine, "score": 0} == {**other, "score": 0}
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)


def masked(family: Any, *templates: str) -> list[str]:
    return [template.format(family.tokenizer.mask_token) for template in templates]


TEMPLATES = (
    "the quick {0} fox",
    "{0}",
    "emoji 😀 and {0} in Zürich !",
    "Alice {0} works for {0} Corp",
    "你好{0}世界 שלום",
)


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 12}, {"top_k": 100_000}])
def test_fillings_equal_transformers(any_family: Any, options: Any) -> None:
    runtime, pipe = build(any_family)
    if options.get("top_k", 0) > 1000:
        options = {"top_k": len(any_family.tokenizer)}
    texts = masked(any_family, *TEMPLATES)
    assert_same(runtime(texts, **options), pipe(texts, **options))
    for text in texts:
        assert_same(runtime(text, **options), pipe(text, **options))


def test_several_masks_give_a_list_each(bert: Any) -> None:
    runtime, _ = build(bert)
    found = runtime(masked(bert, "{0} the {0} fox {0}")[0], top_k=2)
    assert [len(fillings) for fillings in found] == [2, 2, 2]
    assert found[0][0]["sequence"].count("[MASK]") == 2


def test_one_text_in_a_list_gives_a_list(bert: Any) -> None:
    runtime, _ = build(bert)
    (text,) = masked(bert, "the {0} fox")
    assert runtime([text]) == [runtime(text)]


def test_targets_equal_transformers(any_family: Any) -> None:
    runtime, pipe = build(any_family)
    targets = ["the", "fox", "and"] if any_family.name != "roberta" else ["the", "Ġqui", "a"]
    (text,) = masked(any_family, "the {0} fox")
    assert_same(runtime(text, targets=targets), pipe(text, targets=targets))
    assert_same(runtime(text, targets=targets[0]), pipe(text, targets=targets[0]))


def test_target_may_be_written_as_text(roberta: Any) -> None:
    runtime, _ = build(roberta)
    (text,) = masked(roberta, "the{0} fox")
    (filling,) = runtime(text, targets=" the")
    assert filling["token_str"] == " the"
    assert filling["token"] == roberta.tokenizer.convert_tokens_to_ids("Ġthe")


def test_decoded_text_is_cleaned_when_asked(bert: Any) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bert.tokenizer.backend_tokenizer,
        model_max_length=40,
        clean_up_tokenization_spaces=True,
        **bert.tokenizer.special_tokens_map,
    )
    runtime, _ = build(bert, clean_up_spaces=True)
    ids = bert.tokenizer("doesn't it, really ? yes. isn't she 's")["input_ids"]
    ours = runtime.encoder.decode(ids, skip_special_tokens=True)
    assert ours == tokenizer.decode(ids, skip_special_tokens=True)
    assert " ?" not in ours


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("snowman", "targets: expected words of one token, got 'snowman'"),
        (["the", "☃"], "targets: expected words of one token, got '☃'"),
        ([], "expected at least one text"),
    ],
)
def test_unknown_targets_are_refused(bert: Any, targets: Any, message: str) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match=message):
        runtime("the [MASK]", targets=targets)


def test_text_without_a_mask_is_refused(bert: Any, long_text: str) -> None:
    runtime, _ = build(bert)
    with pytest.raises(TextError, match=r"text 1: expected the mask token '\[MASK\]' among its"):
        runtime(["a [MASK]", "no mask"])
    with (
        pytest.warns(TruncationWarning),
        pytest.raises(TextError, match="among its first 40 tokens, got none"),
    ):
        runtime(long_text + "[MASK]")
    with pytest.raises(TextError, match="top_k: expected an integer >= 1, got -1"):
        runtime("a [MASK]", top_k=-1)
