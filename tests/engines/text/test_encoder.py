"""Feeds against the tokenizers of transformers; cutting, padding and refusals."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from fuselage.engines.text.encoder import TextEncoder, TruncationWarning
from fuselage.errors import BundleError, MissingPackageError, TextError


def assert_feeds(family: Any, encoder: TextEncoder, texts: list[Any]) -> None:
    encoded = encoder.encode(texts)
    ours = encoder.feeds(encoded, np.arange(len(texts)))
    pairs = [text if isinstance(text, tuple) else (text, None) for text in texts]
    theirs = family.tokenizer(
        [text for text, _ in pairs],
        None if pairs[0][1] is None else [pair for _, pair in pairs],
        padding=True,
        truncation=True,
        return_tensors="np",
    )
    assert list(ours) == list(family.spec.inputs)
    for name, feed in ours.items():
        assert feed.dtype == np.int64
        np.testing.assert_array_equal(feed, theirs[name], err_msg=name)


def test_feeds_equal_transformers(any_family: Any, texts: list[str]) -> None:
    assert_feeds(any_family, TextEncoder(any_family.path, any_family.spec), texts)


@pytest.mark.filterwarnings("ignore::fuselage.engines.text.encoder.TruncationWarning")
def test_pairs_equal_transformers(any_family: Any, texts: list[str], long_text: str) -> None:
    encoder = TextEncoder(any_family.path, any_family.spec)
    pairs = list(zip(texts, reversed(texts), strict=True))
    pairs += [(long_text, "x"), ("x", long_text), (long_text, long_text)]
    assert_feeds(any_family, encoder, pairs)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.filterwarnings("ignore::fuselage.engines.text.encoder.TruncationWarning")
def test_sides_equal_transformers(bert: Any, texts: list[str], long_text: str, side: str) -> None:
    tokenizer = bert.tokenizer
    spec = replace(bert.spec, padding_side=side, truncation_side=side)
    before = tokenizer.padding_side, tokenizer.truncation_side
    tokenizer.padding_side = tokenizer.truncation_side = side
    try:
        many = [*texts, "lazy " + long_text + " Paris"]
        assert_feeds(bert, TextEncoder(bert.path, spec), many)
    finally:
        tokenizer.padding_side, tokenizer.truncation_side = before


def test_settings_of_the_file_are_replaced(bert: Any) -> None:
    stored = Tokenizer.from_file(str(bert.path))
    assert stored.padding["length"] == 128
    assert stored.truncation["max_length"] == 7
    encoder = TextEncoder(bert.path, bert.spec)
    encoded = encoder.encode(["the quick brown fox jumps over the lazy dog", "the fox"])
    assert encoded.lengths.tolist() == [14, 4]
    assert encoder.feeds(encoded, np.array([1]))["input_ids"].shape == (1, 4)
    assert encoder.feeds(encoded, np.array([1]), 9)["attention_mask"].tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0, 0]
    ]


def test_one_warning_says_how_many_were_cut_and_to_what(bert: Any, long_text: str) -> None:
    encoder = TextEncoder(bert.path, bert.spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoded = encoder.encode(["x", long_text, "y", long_text])
    (warning,) = caught
    assert warning.category is TruncationWarning
    assert str(warning.message).startswith(
        "2 of 4 texts are longer than 40 tokens and were cut to 40 (index 1, 3);"
    )
    assert encoded.lengths.tolist() == [3, 40, 3, 40]


def test_text_of_exactly_the_maximum_is_not_cut(bert: Any) -> None:
    encoder = TextEncoder(bert.path, bert.spec)
    assert encoder.encode(["fox " * 38]).lengths.tolist() == [40]
    with pytest.warns(TruncationWarning, match="1 of 1 texts are longer than 40"):
        encoder.encode(["fox " * 39])


def test_engine_that_takes_less_cuts_earlier(bert: Any) -> None:
    encoder = TextEncoder(bert.path, bert.spec, 16)
    assert encoder.max_tokens == 16
    with pytest.warns(TruncationWarning, match="were cut to 16"):
        assert encoder.encode(["fox " * 30]).lengths.tolist() == [16]


def test_lowercase_goes_before_the_tokenizer(roberta: Any) -> None:
    plain = TextEncoder(roberta.path, roberta.spec)
    lower = TextEncoder(roberta.path, replace(roberta.spec, lowercase=True))
    shouted, spoken = "THE QUICK Fox in ZÜRICH", "the quick fox in zürich"
    (expected,) = plain.encode([spoken]).encodings
    assert lower.encode([shouted]).encodings[0].ids == expected.ids
    assert plain.encode([shouted]).encodings[0].ids != expected.ids


def test_lowercase_keeps_the_normalizer_of_the_file(bert: Any) -> None:
    encoder = TextEncoder(bert.path, replace(bert.spec, lowercase=True))
    first, second = encoder.encode(["CAF\u00c9 \u4f60\u597d", "cafe \u4f60 \u597d"]).encodings
    assert first.ids == second.ids


def test_windows_cover_the_text_and_overlap(bert: Any) -> None:
    encoder = TextEncoder(bert.path, bert.spec)
    text = "fox dog " * 30
    encoded = encoder.encode_windows(
        ["the fox", text], max_tokens=12, stride=4, strategy="longest_first"
    )
    assert encoded.sources.tolist() == [0] + [1] * 10
    assert encoded.lengths[1:].tolist() == [12] * 9 + [8]
    spans = [encoding.offsets[1:-1] for encoding in encoded.encodings[1:]]
    assert spans[0][-4:] == spans[1][:4]
    assert spans[-1][-1] == (len(text) - 4, len(text) - 1)


def test_windows_leave_plain_encoding_alone(bert: Any) -> None:
    encoder = TextEncoder(bert.path, bert.spec)
    encoder.encode_windows(["fox " * 30], max_tokens=8, stride=2, strategy="longest_first")
    assert encoder.encode(["fox " * 30]).lengths.tolist() == [32]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "expected at least one text, got an empty list"),
        (["a", ""], "text 1: expected some text, got ''; leave empty texts out"),
        (["\t\n \u3000"], "text 0: expected some text"),
        (["a", "b", None], r"text 2: expected a str, got NoneType \(None\)"),
        ([b"bytes"], "text 0: expected a str, got bytes"),
        ([["a", "b"]], "text 0: expected a str, got list"),
        (["good", ("a", "")], "text 1: expected some text"),
        (["good", "half \ud83d of it"], "text 1: the character .* at 5 is half of a surrogate"),
    ],
)
def test_what_is_no_text_is_named(bert: Any, texts: list[Any], message: str) -> None:
    with pytest.raises(TextError, match=message):
        TextEncoder(bert.path, bert.spec).encode(texts)


@pytest.mark.parametrize("content", ["", "{}", '{"model": 1}', "[]"])
def test_foreign_tokenizer_file_is_refused(bert: Any, tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: expected a tokenizer\.json, got:"):
        TextEncoder(path, bert.spec)


def test_missing_tokenizer_file_is_refused(bert: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"the tokenizer cannot be read: .*No such file"):
        TextEncoder(tmp_path / "tokenizer.json", bert.spec)


def test_maximum_that_holds_only_special_tokens_is_refused(bert: Any) -> None:
    with pytest.raises(BundleError, match="cut at 2 tokens, of which 2 are special tokens"):
        TextEncoder(bert.path, bert.spec, 2)


def test_missing_package_is_named(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingPackageError, match="needs the package 'tokenizers'"):
        TextEncoder(bert.path, bert.spec)
