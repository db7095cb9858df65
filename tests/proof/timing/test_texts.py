"""Texts as each task takes them, their tokens, and feeds of graphs that are no text models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuselage.engines.text.encoder import TextEncoder
from fuselage.engines.text.task import TaskSpec
from fuselage.errors import CalibrationError, FeedError
from fuselage.graph.tensors import ShapeProfile, TensorSpec
from fuselage.proof.timing.texts import TextSource, read_texts
from fuselage.proof.timing.work import (
    Shape,
    check_shape,
    default_shapes,
    drawn_work,
    parse_shapes,
)


@pytest.fixture
def source(bundle: Path) -> TextSource:
    spec = TaskSpec.load(bundle / "task.json")
    encoder = TextEncoder(bundle / "tokenizer.json", spec)
    return TextSource(encoder=encoder, texts=("a", "b c", "d e f", "g h i j"), source="here")


def asking(source: TextSource, **changes: Any) -> TextSource:
    """The same for a model of another task."""
    encoder = source.encoder
    encoder.spec = replace(encoder.spec, dimension=None, **changes)
    return source


def test_batches_are_padded_to_their_longest_and_repeat(source: TextSource) -> None:
    work = source.feeds(Shape(2))
    assert work.name == "2 texts"
    lengths = [feeds["attention_mask"].sum(1).tolist() for feeds in work.inputs]
    assert len(lengths) == 2
    assert work.tokens == tuple(map(sum, lengths))
    assert work.padded == tuple(2 * max(pair) for pair in lengths)
    assert source.feeds(Shape(2), least=9).padded == (18, 18)


def test_few_texts_fill_a_large_batch(source: TextSource) -> None:
    work = source.feeds(Shape(10))
    assert work.inputs[0]["input_ids"].shape[0] == 10
    assert len(work.inputs) == 1
    assert source.feeds(Shape(1)).name == "1 text"


def test_ids_are_those_of_the_texts_without_special_tokens(source: TextSource) -> None:
    ids = source.ids()
    encoded = source.encoder.encode(source.texts)
    special = {encoding.ids[0] for encoding in encoded.encodings}
    assert not special & set(ids)
    assert set(ids) < {token for encoding in encoded.encodings for token in encoding.ids}


def test_texts_that_are_too_long_are_counted(source: TextSource) -> None:
    assert source.cut() == 0
    assert replace(source, texts=("a", "b " * 40)).cut() == 1


def test_questions_are_in_the_form_of_the_task(source: TextSource) -> None:
    plain = source.questions(Shape(1)).inputs
    assert plain == (["a"], ["b c"], ["d e f"], ["g h i j"])
    assert source.questions(Shape(1)).fill is None

    masked = asking(source, task="fill-mask", mask_token="[MASK]", mask_token_id=4)
    assert masked.questions(Shape(1)).inputs[1] == ["b c [MASK]"]

    answering = asking(source, task="question-answering", outputs=("start", "end"))
    one = replace(answering, texts=("a b c d e f g h i j",)).questions(Shape(1)).inputs[0]
    assert one == [{"question": "a b c d e f g h", "context": "a b c d e f g h i j"}]
    pair = replace(answering, texts=(("who", "he"),)).questions(Shape(1)).inputs[0]
    assert pair == [{"question": "who", "context": "he"}]


def test_pairs_are_for_models_of_pairs(source: TextSource) -> None:
    pairs = replace(source, texts=(("a", "b"),))
    with pytest.raises(FeedError, match="a pipeline of the task 'embedding' takes single texts"):
        pairs.questions(Shape(1))
    judging = asking(source, task="sequence-classification", labels=("x",), outputs=("logits",))
    found = replace(judging, texts=(("a", "b"),)).questions(Shape(1))
    assert found.inputs[0] == [{"text": "a", "text_pair": "b"}]


def test_texts_come_from_files_or_from_the_corpus(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("one\n\ntwo\n")
    texts, source = read_texts([file])
    assert (sorted(map(str, texts)), source) == (["one", "two"], "mine.txt")
    assert read_texts([])[1] == "default corpus"
    with pytest.raises(CalibrationError, match="no such file"):
        read_texts([tmp_path / "gone.txt"])


def test_token_ids_are_no_texts(tmp_path: Path) -> None:
    file = tmp_path / "ids.jsonl"
    file.write_text('{"text": [1, 2, 3]}\n')
    with pytest.raises(FeedError, match=r"ids\.jsonl: expected texts, got token ids"):
        read_texts([file])


# --- sizes and drawn feeds


def test_shapes_are_read_once_each() -> None:
    assert parse_shapes(["1x128,8X128", "8x128", " 4 "]) == (Shape(1, 128), Shape(8, 128), Shape(4))
    assert [str(shape) for shape in parse_shapes(["1x2,3"])] == ["1x2", "3"]


def test_default_shapes_are_those_of_the_profile() -> None:
    profile = ShapeProfile({"batch": (2, 8, 64), "sequence": (1, 96, 256)})
    assert default_shapes(profile) == (Shape(2, 96), Shape(8, 96))
    assert default_shapes(None) == (Shape(1, 128), Shape(8, 128))
    same = ShapeProfile({"batch": (1, 1, 1), "sequence": (1, 96, 256)})
    assert default_shapes(same) == (Shape(1, 96),)


def test_a_shape_is_held_to_the_profile_of_each_candidate() -> None:
    profile = ShapeProfile({"batch": (1, 2, 4)})
    check_shape("a", profile, {"batch": 4, "sequence": 9000})
    check_shape("a", None, {"batch": 5})
    with pytest.raises(FeedError, match=r"a: axis 'batch' has size 5.*built for 1 to 4"):
        check_shape("a", profile, {"batch": 5})


def test_inputs_are_drawn_by_what_they_are() -> None:
    specs = [
        TensorSpec("input_ids", "int64", ("batch", "sequence")),
        TensorSpec("attention_mask", "int32", ("batch", "sequence")),
        TensorSpec("token_type_ids", "int64", ("batch", "sequence")),
        TensorSpec("position_ids", "int64", ("batch", "sequence")),
        TensorSpec("kept", "bool", ("batch", "sequence")),
        TensorSpec("pixel_values", "float32", ("batch", 3, 8, 8)),
    ]
    work = drawn_work(Shape(2, 5), specs, ids=[7, 8])
    feeds = work.inputs[0]
    assert set(np.unique(feeds["input_ids"])) == {7, 8}
    assert feeds["attention_mask"].dtype == np.int32
    assert feeds["attention_mask"].all()
    assert not feeds["token_type_ids"].any()
    assert feeds["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert feeds["kept"].all()
    assert feeds["pixel_values"].shape == (2, 3, 8, 8)
    assert (work.tokens, work.padded, work.fill, work.largest) == ((10,), (10,), 1.0, (2, 5))


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (("batch", "sequence", "past"), "axes for a batch and a sequence alone"),
        (("batch", 4, "past", 8), "axes for a batch and a sequence alone"),
        ((2, "sequence"), "axis 0 is fixed at 2, asked was 3"),
        (("batch", 7), "axis 1 is fixed at 7, asked was 5"),
    ],
)
def test_inputs_of_other_sizes_are_refused(dims: tuple[Any, ...], message: str) -> None:
    with pytest.raises(FeedError, match=message):
        drawn_work(Shape(3, 5), [TensorSpec("x", "int64", dims)])
