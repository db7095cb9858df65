"""Subjects by the names users give them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fuselage.engines.bundle import Bundle
from fuselage.errors import FeedError, FuselageError, GraphError, SourceError
from fuselage.graph.tensors import TensorSpec
from fuselage.proof.subjects.base import chosen_feeds
from fuselage.proof.subjects.bundle_engine import BundleSubject
from fuselage.proof.subjects.open import SubjectOptions, open_subject, runnable_names
from fuselage.proof.subjects.results import KeptCase, ResultsSubject, save_results

FEEDS = {
    "input_ids": np.array([[2, 11, 12, 3], [2, 13, 3, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "token_type_ids": np.zeros((2, 4), np.int64),
}


def test_all_kinds_answer_the_same(model_folder: Path, bundle: Bundle) -> None:
    names = (
        f"torch:random:{model_folder}",
        f"ort:{bundle.root / 'graph/model.onnx'}",
        f"bundle:{bundle.root}",
        f"bundle:{bundle.root}#ort-cpu",
    )
    answers = []
    for name in names:
        with open_subject(name) as subject:
            assert subject.name == name
            assert [spec.name for spec in subject.inputs] == list(FEEDS)
            assert [str(spec) for spec in subject.outputs] == [
                "logits: float32[batch, sequence, 7]"
            ]
            assert (subject.task is None) == name.startswith("ort:")
            answers.append(subject.run(FEEDS | {"other": np.zeros(1)})["logits"])
    for answer in answers[1:]:
        assert np.abs(answer - answers[0])[FEEDS["attention_mask"] == 1].max() < 5e-6


def test_what_a_bundle_says_of_itself(bundle: Bundle) -> None:
    with open_subject(f"bundle:{bundle.root}") as subject:
        assert subject.precision == "fp32"
        assert subject.graph == bundle.root / "ort-cpu/model.onnx"
        assert subject.profile is not None
        assert subject.profile.axes["sequence"][2] == 48
        assert subject.in_float64() is None


def test_a_bundle_without_a_target_stands_for_all_that_run(bundle: Bundle) -> None:
    assert runnable_names(f"bundle:{bundle.root}") == ([f"bundle:{bundle.root}#ort-cpu"], [])
    assert runnable_names("torch:minilm") == (["torch:minilm"], [])


def test_float64_differs_by_roundings_alone(model_folder: Path) -> None:
    with open_subject(f"torch:random:{model_folder}") as subject:
        precise = subject.in_float64()
        assert precise is not None
        with precise:
            wide, narrow = precise.run(FEEDS)["logits"], subject.run(FEEDS)["logits"]
        assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
        assert 0 < np.abs(wide - narrow).max() < 1e-5
        assert subject.run(FEEDS)["logits"].dtype == np.float32  # the copy left it alone


def test_the_task_may_be_said(model_folder: Path) -> None:
    options = SubjectOptions(task="feature-extraction")
    with open_subject(f"torch:random:{model_folder}", options) as subject:
        assert subject.outputs[0].name == "last_hidden_state"


def test_the_tokenizer_lives_as_long_as_the_subject(model_folder: Path) -> None:
    with open_subject(f"torch:random:{model_folder}") as subject:
        tokenizer = subject.tokenizer
        assert tokenizer is not None
        assert json.loads(tokenizer.read_text())["model"]["type"] == "WordPiece"
    assert not tokenizer.exists()
    subject.close()


def test_integers_are_cast_when_they_fit(bundle: Bundle) -> None:
    narrow = {name: array.astype(np.int32) for name, array in FEEDS.items()}
    with open_subject(f"bundle:{bundle.root}") as subject:
        assert np.array_equal(subject.run(narrow)["logits"], subject.run(FEEDS)["logits"])
        with pytest.raises(FeedError, match="'attention_mask' is missing"):
            subject.run({"input_ids": FEEDS["input_ids"]})


def test_integers_that_do_not_fit_are_refused() -> None:
    specs = (TensorSpec("ids", "int32", ("batch",)),)
    assert chosen_feeds(specs, {"ids": np.array([7])}, "one")["ids"].dtype == np.int32
    with pytest.raises(FeedError, match="one: values of 'ids' do not fit its dtype int32"):
        chosen_feeds(specs, {"ids": np.array([1 << 40])}, "one")


def test_an_engine_made_for_another_machine_is_looked_into_at_its_source(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "mismatches", lambda *_: ("another CPU",))
    engine = bundle.engine("ort-cpu")
    with BundleSubject("other", bundle, engine) as subject:
        assert (subject.graph, subject.precision) == (bundle.source, "fp32")


def test_kept_answers_are_told_apart_by_shape() -> None:
    feeds = {"ids": np.array([[1, 2, 3, 4]])}
    specs = (TensorSpec("ids", "int64", ("batch", "sequence")),)
    case = KeptCase(name="one", feeds=feeds, outputs={})
    subject = ResultsSubject("kept", [case], specs, ())
    assert subject.run(feeds) == {}
    with pytest.raises(FeedError, match="none to these feeds"):
        subject.run({"ids": feeds["ids"].reshape(2, 2)})


def test_kept_answers_come_back_bit_by_bit(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    with open_subject(f"torch:random:{model_folder}") as subject:
        outputs = subject.run(FEEDS)
        save_results(path, subject, [KeptCase(name="first", feeds=FEEDS, outputs=outputs)])
    with open_subject(f"results:{path}") as kept:
        assert kept.precision == "fp32"
        assert list(kept.kept) == ["first"]
        assert str(kept.outputs[0]) == "logits: float32[batch, sequence, 7]"
        assert np.array_equal(kept.run(FEEDS)["logits"], outputs["logits"])
        with pytest.raises(FeedError, match="holds answers to 1 cases and none to these feeds"):
            kept.run(FEEDS | {"input_ids": FEEDS["input_ids"] + 1})


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("minilm", SourceError, "'minilm': expected one of .*; did you mean torch:minilm?"),
        ("trt:x.plan", SourceError, "'trt:x.plan': expected one of torch:MODEL"),
        ("model.onnx", SourceError, "did you mean ort:model.onnx?"),
        ("torch:", SourceError, "'torch:': expected one of"),
        ("torch:minilm@main@x", FuselageError, "."),
        ("ort:/", GraphError, "expected an ONNX file at /, found a folder"),
        ("results:none.npz", SourceError, "found no such file"),
    ],
)
def test_names_that_stand_for_nothing(name: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason.replace("?", r"\?")):
        open_subject(name)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("a.onnx", b"no graph", "ONNX Runtime refuses the file"),
        ("a.npz", b"no zip", "expected a file that `fuselage compare --save-reference` wrote"),
        ("a.json", b"{}", "Polygraphy keeps inputs in a file of their own"),
    ],
)
def test_files_of_something_else(tmp_path: Path, file: str, content: bytes, reason: str) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    kind = "ort" if path.suffix == ".onnx" else "results"
    with pytest.raises(FuselageError, match=reason):
        open_subject(f"{kind}:{path}")


def test_polygraphys_files_of_something_else(tmp_path: Path) -> None:
    outputs, inputs = tmp_path / "a.json", tmp_path / "b.json"
    outputs.write_text("[]")
    inputs.write_text("[]")
    with pytest.raises(SourceError, match="expected results that Polygraphy saved"):
        open_subject(f"results:{outputs},{inputs}")
