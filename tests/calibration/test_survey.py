from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from fuselage.calibration.text.data import CalibrationSet, default_corpus
from fuselage.calibration.text.samples import TokenIds
from fuselage.calibration.text.survey import survey
from fuselage.calibration.text.tokenization import tokenize_with
from fuselage.engines.text.encoder import TextEncoder
from fuselage.engines.text.task import TaskSpec
from fuselage.errors import CalibrationError

ENGLISH = [text for text in default_corpus().texts if text.isascii()]
RUSSIAN = ["Вчера мы долго гуляли по парку и кормили уток.", "Он забыл зонтик в поезде."]


def spec_of(task: str, **values: object) -> TaskSpec:
    needs: dict[str, object] = {"embedding": {"dimension": 4}}.get(
        task, {"labels": ("no", "yes"), "activation": "sigmoid"}
    )
    base = {"task": task, "inputs": ("input_ids",), "outputs": ("out",), "max_tokens": 16}
    return TaskSpec(**{**base, **needs, **values})  # type: ignore[arg-type]


def encoder_of(folder: Path, tokenizer: Tokenizer, **values: object) -> TextEncoder:
    tokenizer.save(str(folder / "tokenizer.json"))
    return TextEncoder(folder / "tokenizer.json", spec_of(**{"task": "embedding", **values}))


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    """Knows English words, and no letter of another script."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special)
    tokenizer.train_from_iterator(ENGLISH, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return tokenizer


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """Merges English words from bytes, and spells everything else in single bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(ENGLISH, trainer)
    return tokenizer


def test_figures_are_of_what_the_model_sees(tmp_path, wordpiece):
    encoder = encoder_of(tmp_path, wordpiece, prompts={"a": "the the "}, default_prompt="a")
    data = CalibrationSet.from_texts(["the", " ", "the cat", "the " * 20, "the", "Ж the the the"])
    found = survey(data, encoder)
    assert (found.texts, found.seen, found.duplicates, found.blank) == (4, 4, 1, 1)
    assert (found.shortest, found.longest, found.cut) == (5, 16, 1)
    lengths = [len(row.ids) for row in tokenize_with(encoder)(data.texts)]
    assert found.tokens == sum(lengths)
    assert found.vocabulary == wordpiece.get_vocab_size() == 2000
    # Neither the prompt nor the text that was cut counts: 1 + 2 + 4 tokens, one of them unknown.
    assert found.unknown_share == round(1 / 7, 4)
    assert found.characters_a_token == round((3 + 7 + 13) / 7, 2)
    assert found.digest == data.digest
    assert "the cat" not in json.dumps(found.facts())
    blank, unknown = found.notes()  # a quarter of the texts was cut, which is not yet said
    assert "1 blank rows of texts" in blank
    assert "14% of the tokens" in unknown


def test_text_in_the_language_of_the_model_needs_no_word(tmp_path, wordpiece, byte_level):
    for tokenizer in [wordpiece, byte_level]:
        encoder = encoder_of(tmp_path, tokenizer, max_tokens=512)
        assert list(survey(CalibrationSet.from_texts(ENGLISH), encoder).notes()) == []


def test_unknown_tokens_are_pointed_out(tmp_path, wordpiece):
    found = survey(
        CalibrationSet.from_texts(RUSSIAN, source="ru.txt"), encoder_of(tmp_path, wordpiece)
    )
    [note] = found.notes()
    assert "does not know 88% of the tokens of ru.txt" in note
    few = CalibrationSet.from_texts([*ENGLISH, RUSSIAN[1]])
    assert list(survey(few, encoder_of(tmp_path, wordpiece, max_tokens=512)).notes()) == []


def test_a_tokenizer_that_spells_is_pointed_out(tmp_path, byte_level):
    encoder = encoder_of(tmp_path, byte_level, max_tokens=256)
    data = CalibrationSet.from_texts(RUSSIAN, source="ru.txt")
    found = survey(data, encoder)
    assert found.unknown_share == 0
    [note] = found.notes()
    assert "spells ru.txt in tokens of 0.6 characters" in note
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Tokenizer(models.BPE({sign: at for at, sign in enumerate(alphabet)}, []))
    bytes_alone.pre_tokenizer = byte_level.pre_tokenizer
    found = survey(data, encoder_of(tmp_path, bytes_alone, max_tokens=256))
    share = sum(map(len, RUSSIAN)) / sum(len(text.encode()) for text in RUSSIAN)
    assert (found.vocabulary, found.characters_a_token) == (256, round(share, 2))
    assert list(found.notes()) == []


def test_chinese_in_a_chinese_vocabulary_is_not_spelled(tmp_path):
    texts = [text for text in default_corpus().texts if "的" in text]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted({letter for text in texts for letter in text} - {" "})
    vocabulary = {"[UNK]": 0} | {letter: at for at, letter in enumerate(letters, start=1)}
    vocabulary |= {f"[unused{at}]": len(vocabulary) + at for at in range(2000)}
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    found = survey(
        CalibrationSet.from_texts(texts), encoder_of(tmp_path, tokenizer, max_tokens=128)
    )
    assert list(found.notes()) == []
    assert found.characters_a_token > 2


def test_blank_rows_and_long_texts_are_pointed_out(tmp_path, wordpiece):
    texts = ["", "the " * 30, "the " * 40, "the", "the " * 14]  # the last one just fits
    data = CalibrationSet.from_texts(texts, source="a.csv")
    first, second = survey(data, encoder_of(tmp_path, wordpiece)).notes()
    assert "1 blank rows of a.csv were left out" in first
    assert "2 of 4 texts are longer than the model takes and were cut to 16 tokens" in second


def test_text_far_shorter_than_the_model_takes_is_pointed_out(tmp_path, wordpiece):
    data = CalibrationSet.from_texts(["the " * 30, "the cat"], source="a.txt")  # 32 tokens
    [note] = survey(data, encoder_of(tmp_path, wordpiece, max_tokens=129)).notes()
    assert "the longest text of a.txt has 32 tokens, the model takes 129" in note
    assert list(survey(data, encoder_of(tmp_path, wordpiece, max_tokens=128)).notes()) == []


@pytest.mark.parametrize(
    ("task", "labels", "reads_pairs"),
    [
        ("question-answering", (), True),
        ("sequence-classification", ("score",), True),
        ("sequence-classification", ("CONTRADICTION", "ENTAILMENT", "NEUTRAL"), True),
        ("sequence-classification", ("no", "yes"), False),
    ],
)
def test_single_texts_for_a_model_of_pairs_are_pointed_out(
    tmp_path, wordpiece, task, labels, reads_pairs
):
    outputs = ("start", "end") if task == "question-answering" else ("out",)
    given = {"labels": labels} if task == "sequence-classification" else {}
    encoder = encoder_of(tmp_path, wordpiece, task=task, outputs=outputs, **given)
    data = CalibrationSet.from_texts(["the cat", ("the dog", "the cat")], source="a.csv")
    found = survey(data, encoder)
    assert (found.pairs, found.takes, found.reads_pairs) == (1, 16, reads_pairs)
    notes = [note for note in found.notes() if "model reads pairs" in note]
    assert len(notes) == reads_pairs
    if reads_pairs:
        assert "1 of 2 texts of a.csv are single" in notes[0]
    pairs = survey(CalibrationSet.from_texts([("the dog", "the cat")]), encoder)
    assert not any("reads pairs" in note for note in pairs.notes())


def test_pairs_are_joined_as_the_tokenizer_does(tmp_path, wordpiece):
    encoder = encoder_of(tmp_path, wordpiece, task="sequence-classification")
    data = CalibrationSet.from_texts([("the cat", "the dog")])
    [row] = tokenize_with(encoder)(data.texts)
    assert row.ids == wordpiece.encode("the cat", "the dog").ids
    assert row.type_ids == wordpiece.encode("the cat", "the dog").type_ids
    assert 1 in row.type_ids
    found = survey(data, encoder)
    assert found.tokens == len(row.ids)
    assert found.characters_a_token == round(14 / (len(row.ids) - 3), 2)


def test_pairs_for_an_embedding_are_refused(tmp_path, wordpiece):
    tokenize = tokenize_with(encoder_of(tmp_path, wordpiece))
    with pytest.raises(CalibrationError, match="an embedding model reads one text at a time"):
        tokenize([("a", "b")])


@pytest.mark.parametrize(("side", "kept"), [("right", range(10, 26)), ("left", range(14, 30))])
def test_token_ids_are_cut_and_taken_as_they_are(tmp_path, wordpiece, side, kept):
    encoder = encoder_of(tmp_path, wordpiece, truncation_side=side)
    samples = ["the", TokenIds(tuple(range(10, 30))), TokenIds((7,)), "the cat"]
    rows = tokenize_with(encoder)(samples)
    assert [len(row.ids) for row in rows] == [3, 16, 1, 4]
    assert rows[1].ids == list(kept)
    assert (rows[1].type_ids, rows[1].attention_mask) == ([0] * 16, [1] * 16)
    assert rows[0].ids == wordpiece.encode("the").ids
    assert survey(CalibrationSet.from_texts(samples), encoder).cut == 1
    found = survey(CalibrationSet.from_texts(samples[1:3]), encoder)
    assert (found.characters_a_token, found.unknown_share) == (0, 0)


def test_token_ids_of_another_vocabulary_are_refused(tmp_path, wordpiece):
    tokenize = tokenize_with(encoder_of(tmp_path, wordpiece))
    assert tokenize([TokenIds((1999,))])[0].ids == [1999]
    with pytest.raises(CalibrationError, match=r"expected ids below 2000, .* got 2000"):
        tokenize([TokenIds((1, 2000))])


def test_a_vocabulary_with_holes_is_counted_by_its_tokens(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "rain": 3, "snow": 900}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = encoder_of(tmp_path, tokenizer)
    found = survey(CalibrationSet.from_texts(["snow", TokenIds((0, 900))]), encoder)
    assert (found.vocabulary, found.vocabulary_share) == (3, 0.6667)
    with pytest.raises(CalibrationError, match="expected ids below 901"):
        survey(CalibrationSet.from_texts([TokenIds((901,))]), encoder)
