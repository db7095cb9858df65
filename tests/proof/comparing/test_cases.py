"""Cases: the user's texts, and what tends to break engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fuselage.calibration.text.samples import TokenIds
from fuselage.engines.text.task import TaskSpec
from fuselage.errors import TextError, VerificationError
from fuselage.graph.tensors import ShapeProfile, TensorSpec
from fuselage.proof.comparing.cases import Case, Sizes, text_cases
from fuselage.proof.comparing.sources import Asked, common_sizes, make_cases

from .conftest import TableSubject

SIZES = Sizes(batch=(1, 4), sequence=(1, 32))


def test_every_case_that_breaks_engines_is_there(tokenizer: Path, spec: TaskSpec) -> None:
    cases = {case.name: case for case in _cases(tokenizer, spec, SIZES)}
    assert list(cases) == [
        "texts 1 to 2",
        "one token",
        "longest",
        "batch of one",
        "row of padding",
        "repeated token",
        "ragged padding",
        "padding on the other side",
        "holes in the mask",
        "batch 4, length 1",
        "batch 4, length 32",
    ]  # the edges of one row are asked already
    assert _shape(cases["one token"]) == (1, 1)
    assert _shape(cases["longest"]) == (1, 32)
    assert _shape(cases["batch 4, length 32"]) == (4, 32)
    assert cases["row of padding"].empty_rows.tolist() == [1]
    assert len(set(cases["repeated token"].feeds["input_ids"][0].tolist())) == 1
    assert _mask(cases["ragged padding"]).sum(axis=1).tolist() == [1, 6, 12, 24]
    assert _mask(cases["padding on the other side"])[0].tolist() == [False] * 23 + [True]
    assert not _mask(cases["holes in the mask"])[:, 1].any()
    assert _mask(cases["holes in the mask"])[:, 2].all()


def test_the_texts_are_what_the_tokenizer_makes_of_them(tokenizer: Path, spec: TaskSpec) -> None:
    first = _cases(tokenizer, spec, SIZES)[0]
    assert first.texts == ("one two three", "four | five six")
    ids, mask = first.feeds["input_ids"], first.feeds["attention_mask"]
    assert mask.sum(axis=1).tolist() == [5, 6]  # [CLS] and [SEP], and one more in a pair
    assert ids[0, 5] == spec.pad_token_id
    assert first.feeds["token_type_ids"][1].tolist() == [0, 0, 0, 1, 1, 1]


def test_sizes_of_the_engine_are_kept(tokenizer: Path, spec: TaskSpec) -> None:
    sizes = Sizes(batch=(2, 3), sequence=(8, 16))
    for case in _cases(tokenizer, spec, sizes):
        batch, width = _shape(case)
        assert 2 <= batch <= 3, case.name
        assert 8 <= width <= 16, case.name


def test_a_fixed_size_is_the_only_one(tokenizer: Path, spec: TaskSpec) -> None:
    sizes = Sizes(batch=(1, 1), sequence=(16, 16))
    assert {_shape(case) for case in _cases(tokenizer, spec, sizes)} == {(1, 16)}


def test_large_edges_have_fewer_rows(tokenizer: Path, spec: TaskSpec) -> None:
    sizes = Sizes(batch=(1, 4096), sequence=(1, 4096))
    cases = _cases(tokenizer, spec, sizes)
    assert max(case.tokens for case in cases if len(_mask(case)) > 1) <= 1024
    assert _shape(next(case for case in cases if case.name == "longest")) == (1, 2048)
    assert "batch 64, length 1" in [case.name for case in cases]


def test_token_ids_are_taken_as_they_are(tokenizer: Path, spec: TaskSpec) -> None:
    first = text_cases(tokenizer, spec, [TokenIds((5, 6, 7))], SIZES)[0]
    assert first.feeds["input_ids"].tolist() == [[5, 6, 7]]
    with pytest.raises(TextError, match="expected at least one text to compare answers on"):
        text_cases(tokenizer, spec, [], SIZES)


def test_common_sizes_are_those_that_everybody_takes() -> None:
    first, second = TableSubject("first"), TableSubject("second")
    first.profile = ShapeProfile({"batch": (1, 2, 8), "sequence": (4, 8, 64)})
    second.profile = ShapeProfile({"batch": (2, 2, 16), "sequence": (1, 8, 32)})
    assert common_sizes([first, second]) == Sizes(batch=(2, 8), sequence=(4, 32))
    second.inputs = (TensorSpec("input_ids", "int64", ("batch", 128)),)
    with pytest.raises(
        VerificationError, match="no sequence size is taken by all of first, second"
    ):
        common_sizes([first, second])


def test_subjects_without_tokenizer_graph_or_cases_have_nothing_to_be_asked() -> None:
    with pytest.raises(VerificationError, match="no subject has a tokenizer or a graph"):
        make_cases([TableSubject()], Asked())
    with pytest.raises(VerificationError, match="--text needs a tokenizer"):
        make_cases([TableSubject()], Asked(texts=["one"]))


@pytest.fixture(scope="module")
def spec() -> TaskSpec:
    return TaskSpec(
        task="feature-extraction",
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        outputs=("last_hidden_state",),
        max_tokens=4096,
        pad_token_id=0,
        pad_token_type_id=0,
        padding_side="right",
        truncation_side="right",
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fuselage.compiler.models.random_tokenizer import random_tokenizer_json

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(random_tokenizer_json({"vocab_size": 20_000, "pad_token_id": 0}))
    return path


def _cases(tokenizer: Path, spec: TaskSpec, sizes: Sizes) -> tuple[Case, ...]:
    return text_cases(tokenizer, spec, ["one two three", ("four", "five six")], sizes)


def _shape(case: Case) -> tuple[int, ...]:
    return case.feeds["input_ids"].shape


def _mask(case: Case) -> np.ndarray:
    assert case.mask is not None
    assert np.array_equal(case.mask, case.feeds["attention_mask"])
    return case.mask
