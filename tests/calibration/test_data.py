from __future__ import annotations

import hashlib
import warnings
import weakref

import numpy as np
import pytest

from fuselage.calibration.text.data import DEFAULT_LIMIT, CalibrationSet, default_corpus
from fuselage.calibration.text.tokenization import tokenize_with
from fuselage.engines.text.encoder import TextEncoder
from fuselage.engines.text.task import TaskSpec
from fuselage.errors import CalibrationError
from fuselage.graph.tensors import TensorSpec

INPUTS = tuple(
    TensorSpec(name, "int64", ("batch", "sequence"))
    for name in ("input_ids", "attention_mask", "token_type_ids", "position_ids")
)


def test_texts_are_stripped_deduplicated_and_counted():
    data = CalibrationSet.from_texts([" b ", "a", "", "  ", "b", "c\n", "a"])
    assert sorted(data.texts) == ["a", "b", "c"]
    assert (data.seen, data.duplicates, data.blank) == (3, 2, 2)


def test_digest_is_of_the_texts_alone():
    data = CalibrationSet.from_texts(["a ", "bé"], source="here")
    each = sorted(hashlib.sha256(b"text\0" + text.encode()).digest() for text in ["a", "bé"])
    assert data.digest == hashlib.sha256(b"".join(each)).hexdigest()
    assert data.digest == CalibrationSet.from_texts(["bé", "a"], seed=3).digest
    assert data.digest != CalibrationSet.from_texts(["ab", "é"]).digest
    assert "bé" not in repr(data)


def test_draw_is_seeded_and_knows_no_order():
    texts = [f"text {number:03}" for number in range(100)]
    first = CalibrationSet.from_texts(texts, limit=10, seed=1)
    assert first == CalibrationSet.from_texts(texts[::-1], limit=10, seed=1)
    assert first.texts != CalibrationSet.from_texts(texts, limit=10, seed=2).texts
    assert len(set(first.texts)) == 10
    assert first.seen == 100
    assert CalibrationSet.from_texts(texts, limit=30, seed=1).texts[:10] == first.texts


def test_files_are_read_line_by_line(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes("\ufeffeins\r\n\r\n zwei \n".encode())
    second.write_bytes(b"drei")
    data = CalibrationSet.from_files([first, second])
    assert sorted(data.texts) == ["drei", "eins", "zwei"]
    assert data.source == "a.txt, b.txt"
    assert data.blank == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"good\nb\xe4d\n", r"line 2 is not UTF-8 \(byte 0xe4 at column 2\)"),
        (b"good\n\x00\x01\x02", "line 2 holds a NUL byte"),
        ("wide".encode("utf-16"), "line 1 holds a NUL byte"),
        (b" \n\n\t\n", "at least one text that is not blank"),
        (b"", "at least one text that is not blank"),
    ],
)
def test_bad_files_are_named(tmp_path, content, reason):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=rf"bad\.txt: .*{reason}"):
        CalibrationSet.from_files([path])


def test_missing_file_and_no_file(tmp_path):
    with pytest.raises(CalibrationError, match=r"gone\.txt: no such file"):
        CalibrationSet.from_files([tmp_path / "gone.txt"])
    with pytest.raises(CalibrationError, match="at least one text file"):
        CalibrationSet.from_files([])


@pytest.mark.parametrize(
    ("texts", "limit", "reason"),
    [
        ([], 5, "at least one text"),
        (["ok", 3], 5, "item 2: expected a text, a pair of texts or .* got int"),
        ("a text", 5, "got one str; wrap a text in a list"),
        (b"a text", 5, "got one bytes"),
        ({"text": ["a"]}, 5, "got one dict"),
        (7, 5, "got one int"),
        (["ok"], 0, "limit of at least 1"),
    ],
)
def test_bad_iterables_are_refused(texts, limit, reason):
    with pytest.raises(CalibrationError, match=reason):
        CalibrationSet.from_texts(texts, limit=limit)


def test_batches_hold_equal_lengths_and_no_padding(tokenize):
    texts = ["aa", "b", "cc", "dddd", "e", "ff"]
    data = CalibrationSet.from_texts(texts)
    batches = data.batches(tokenize, INPUTS, max_tokens=8)
    held = [[data.texts[at] for at in batch.indices] for batch in batches]
    assert [sorted(set(map(len, row))) for row in held] == [[1], [2], [2], [4]]
    assert sorted(text for row in held for text in row) == sorted(texts)
    assert [batch.tokens for batch in batches] == [6, 8, 4, 6]
    feeds = batches[1].feeds
    assert feeds["input_ids"].tolist() == [row.ids for row in tokenize(held[1])]
    assert feeds["attention_mask"].tolist() == [[1] * 4] * 2
    assert feeds["token_type_ids"].tolist() == [[0] * 4] * 2
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert all(array.dtype == np.int64 for array in feeds.values())


def test_text_longer_than_a_batch_runs_alone(tokenize):
    data = CalibrationSet.from_texts(["x" * 50, "y" * 50])
    batches = data.batches(tokenize, INPUTS[:1], max_tokens=8)
    assert [batch.feeds["input_ids"].shape for batch in batches] == [(1, 52), (1, 52)]


def test_feeds_live_as_long_as_somebody_holds_them(tokenize):
    data = CalibrationSet.from_texts([f"text {number}" for number in range(400)])
    batches = data.batches(tokenize, INPUTS, max_tokens=32)
    assert len(batches) > 100
    fed: list[weakref.ref] = []
    for batch in batches:
        fed.append(weakref.ref(batch.feeds["input_ids"]))
        assert sum(ref() is not None for ref in fed) <= 2


def test_batches_are_a_sequence_that_gives_the_same_again(tokenize):
    data = CalibrationSet.from_texts(["aa", "b", "cc", "dddd", "e", "ff"])
    batches = data.batches(tokenize, INPUTS, max_tokens=8)
    assert [batch.indices for batch in batches[1:3]] == [batches[1].indices, batches[2].indices]
    assert batches[-1].feeds["input_ids"].tolist() == batches[3].feeds["input_ids"].tolist()
    with pytest.raises(IndexError):
        batches[4]


def test_inputs_that_text_cannot_fill_are_refused(tokenize):
    inputs = (*INPUTS, TensorSpec("pixel_values", "float32", ("batch", 3)))
    with pytest.raises(CalibrationError, match="'pixel_values': text cannot fill it"):
        CalibrationSet.from_texts(["a"]).batches(tokenize, inputs)


def test_tokenizer_without_tokens_is_refused():
    class Empty:
        ids: list[int] = []  # noqa: RUF012
        type_ids: list[int] = []  # noqa: RUF012
        attention_mask: list[int] = []  # noqa: RUF012

    data = CalibrationSet.from_texts(["a"])
    with pytest.raises(CalibrationError, match="no token for any of 1 texts"):
        data.batches(lambda texts: [Empty() for _ in texts], INPUTS)


def test_padding_is_refused(tokenize):
    def padded(texts):
        rows = tokenize(texts)
        rows[0].attention_mask[-1] = 0
        return rows

    with pytest.raises(CalibrationError, match="got 3 tokens of which 1 are padding"):
        CalibrationSet.from_texts(["a"]).batches(padded, INPUTS)


def test_split_holds_out_every_nth_length():
    data = CalibrationSet.from_texts(["x" * length for length in range(1, 11)])
    rest, held = data.split(3)
    assert sorted(map(len, held.texts)) == [3, 6, 9]
    assert set(rest.texts) | set(held.texts) == set(data.texts)
    assert not set(rest.texts) & set(held.texts)
    assert list(rest.texts) == [text for text in data.texts if text in rest.texts]
    with pytest.raises(CalibrationError, match="cannot hold out 1 of 1 texts"):
        CalibrationSet.from_texts(["a"]).split(1)


def test_tokenize_with_cuts_silently_and_adds_the_default_prompt(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    vocabulary = {"[UNK]": 0, "query": 1, "cat": 2, "dog": 3}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    spec = TaskSpec(
        task="embedding",
        inputs=("input_ids",),
        outputs=("embedding",),
        max_tokens=3,
        dimension=4,
        prompts={"ask": "query "},
        default_prompt="ask",
    )
    tokenize = tokenize_with(TextEncoder(tmp_path / "tokenizer.json", spec))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = tokenize(["cat", "dog cat dog cat"])
    assert [row.ids for row in rows] == [[1, 2], [1, 3, 2]]


def test_default_corpus_is_varied():
    data = default_corpus()
    lengths = np.array([len(text.split()) for text in data.texts])
    assert data.source == "default corpus"
    assert len(data.texts) == data.seen == DEFAULT_LIMIT  # a build takes all of it
    assert data.duplicates == 0
    assert (lengths == 1).sum() >= 40
    assert ((lengths > 8) & (lengths < 40)).sum() >= 150
    assert (lengths >= 70).sum() >= 50
    assert (lengths >= 110).sum() >= 25
    joined = "\n".join(data.texts)
    assert len(joined.encode()) < 120_000
    for sign in ["def ", "fn ", "SELECT", "const ", "https://", "€", "{", "|", "?", "..."]:
        assert sign in joined
    for letter in "ßéñłήốяの你요مह":
        assert letter in joined
