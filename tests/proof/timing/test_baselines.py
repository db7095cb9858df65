"""PyTorch and plain ONNX Runtime as baselines: the same answers, and what each of them is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fuselage.compiler.exporting.baselines import plain_onnx, torch_baseline
from fuselage.errors import ExportError, SourceError
from fuselage.proof.subjects.base import Subject
from fuselage.proof.timing import baselines
from fuselage.proof.timing.baselines import ModelName, check_baselines, open_baseline
from fuselage.proof.timing.entries import Entry, make_entries

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelName:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return ModelName(name=str(folder), weights="random")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plain")


def feeds(subject: Subject) -> dict[str, np.ndarray]:
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int64)
    ids = np.random.default_rng(0).integers(5, 90, mask.shape) * mask
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {spec.name: given[spec.name] for spec in subject.inputs}


@pytest.mark.parametrize("kind", ["torch-sdpa", "ort"])
def test_baselines_answer_alike(model: ModelName, kept: Path, kind: str) -> None:
    with (
        open_baseline("torch-eager", model, 1, kept) as eager,
        open_baseline(kind, model, 1, kept) as other,
    ):
        wanted = eager.run(feeds(eager))["logits"]
        assert wanted.shape == (2, 2)
        np.testing.assert_allclose(other.run(feeds(other))["logits"], wanted, atol=1e-5)


def test_a_graph_that_was_exported_is_taken_again(
    model: ModelName, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_baseline("ort", model, 1, kept).close()

    def refuse(*_: object) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr("fuselage.compiler.exporting.baselines.plain_onnx", refuse)
    open_baseline("ort", model, 1, kept).close()


def test_weights_lie_as_transformers_laid_them(model: ModelName) -> None:
    """Not transposed, as those of the reference are for the export."""
    found = torch_baseline(model.resolve(), "auto", "sdpa", threads=1)
    linears = [m for m in found.module.modules() if isinstance(m, torch.nn.Linear)]
    assert linears
    assert all(linear.weight.is_contiguous() for linear in linears)
    assert found.module.model.config._attn_implementation == "sdpa"
    assert torch.get_num_threads() == 1


def test_the_compiled_form_is_compiled(model: ModelName) -> None:
    found = torch_baseline(model.resolve(), "auto", "compile", threads=1)
    assert hasattr(found.module, "_orig_mod")


def test_what_pytorch_refuses_is_one_message(model: ModelName) -> None:
    found = torch_baseline(model.resolve(), "auto", "eager", threads=1)
    long = dict.fromkeys(found.spec.inputs, np.ones((1, 99), np.int64))
    with pytest.raises(ExportError, match=r"PyTorch failed on \{'input_ids': \[1, 99\]"):
        found.run(long)


def test_no_compiler_no_compiled_baseline(
    model: ModelName, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> None:
        del name

    monkeypatch.setattr(baselines.shutil, "which", find)
    with pytest.raises(ExportError, match=r"torch\.compile needs a C\+\+ compiler, and none is"):
        open_baseline("torch-compile", model, 1, kept)


def test_a_model_that_is_gone_asks_for_its_folder() -> None:
    with pytest.raises(SourceError, match="name the model's folder with --model"):
        ModelName(name="/no/such/folder").resolve()


def test_an_export_that_fails_is_one_message(
    model: ModelName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("unsupported")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match="the plain export failed: RuntimeError: unsupported"):
        plain_onnx(model.resolve(), "auto", tmp_path / "plain.onnx")
    assert list(tmp_path.iterdir()) == []


def test_all_stands_for_every_baseline_once() -> None:
    assert check_baselines(("ort", "all")) == ("torch-eager", "torch-sdpa", "torch-compile", "ort")
    assert check_baselines(("ort", "torch-sdpa", "ort")) == ("ort", "torch-sdpa")


def test_the_model_of_baselines(bundle: Path) -> None:
    template = Entry(name="", form="", threads=3)
    *_, found = make_entries([str(bundle)], ["ort"], template)
    assert found.model == ModelName(
        name="tiny/encoder", weights="random", task="embedding", digest="d" * 64
    )
    assert (found.name, found.form, found.threads) == ("ort", "ort", 3)
    *_, found = make_entries(["torch:random:some/model@v2"], ["ort"], template)
    assert found.model == ModelName(name="some/model", revision="v2", weights="random")
    *_, found = make_entries([str(bundle)], ["ort"], template, model="mine")
    assert found.model == ModelName(name="mine")
    assert Entry.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_names_are_short_where_that_is_clear(tmp_path: Path) -> None:
    template = Entry(name="", form="")

    def names(*subjects: str) -> list[str]:
        return [entry.name for entry in make_entries(subjects, (), template)]

    assert names("build/a", "build/b#ort-cpu", "x/m.onnx") == ["a", "b#ort-cpu", "m.onnx"]
    assert names("one/a", "two/a") == ["one/a", "two/a"]
    assert names("one/a", "one/a") == ["a", "a (2)"]
    assert names("torch:minilm") == ["torch:minilm"]
    assert [e.form for e in make_entries(["m.onnx", str(tmp_path)], (), template)] == [
        "ort:m.onnx",
        f"bundle:{tmp_path}",
    ]
