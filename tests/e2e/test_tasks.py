"""Every task from a config to an answer, on tiny random models of several families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fuselage
from fuselage.compiler.report import read_report
from fuselage.engines.bundle import Bundle

_BERT: Mapping[str, Any] = {
    "model_type": "bert",
    "vocab_size": 1200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 96,
}
_LABELS = {"id2label": {"0": "LOW", "1": "MID", "2": "HIGH"}}


def tiny(folder: Path, architecture: str, **changes: Any) -> str:
    config = {**_BERT, "architectures": [architecture], **changes}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def build(tmp_path: Path, architecture: str, **changes: Any) -> Bundle:
    model = tiny(tmp_path / "model", architecture, **changes)
    return fuselage.build(model, out=tmp_path / "bundle", weights="random", targets=("ort-cpu",))


def answer(bundle: Bundle, inputs: Any) -> Any:
    with fuselage.pipeline(bundle.root) as runtime:
        assert runtime.task == bundle.manifest.task
        return runtime(inputs)


def checked(bundle: Bundle, task: str) -> Bundle:
    report = read_report(bundle)
    assert bundle.manifest.task == task
    assert bundle.manifest.weights == "random"
    assert report["fusion"]["attention"] == {"found": 2, "fused": 2, "refusals": []}
    assert report["verification"]["passed"] is True
    assert report["verification"]["targets"][0]["relative"] < 1e-5
    return bundle


def test_feature_extraction(tmp_path: Path) -> None:
    bundle = checked(build(tmp_path, "BertModel"), "feature-extraction")
    features = answer(bundle, ["hello there", "a"])
    assert np.asarray(features[0]).shape[-1] == 64


def test_sequence_classification(tmp_path: Path) -> None:
    bundle = build(tmp_path, "BertForSequenceClassification", **_LABELS)
    results = answer(checked(bundle, "sequence-classification"), ["hello there"])
    assert results[0]["label"] in ("LOW", "MID", "HIGH")
    assert 1 / 3 <= results[0]["score"] <= 1


def test_token_classification(tmp_path: Path) -> None:
    bundle = build(tmp_path, "BertForTokenClassification", **_LABELS)
    results = answer(checked(bundle, "token-classification"), ["hello there"])
    assert results[0][0]["start"] == 0
    assert {"entity", "score", "index", "word", "start", "end"} <= set(results[0][0])


def test_question_answering(tmp_path: Path) -> None:
    bundle = checked(build(tmp_path, "BertForQuestionAnswering"), "question-answering")
    context = "the mill was built in 1911 by the river"
    result = answer(bundle, [{"question": "when?", "context": context}])[0]
    assert context[result["start"] : result["end"]] == result["answer"]


def test_fill_mask(tmp_path: Path) -> None:
    bundle = checked(build(tmp_path, "BertForMaskedLM"), "fill-mask")
    results = answer(bundle, ["the [MASK] is blue"])
    scores = [item["score"] for item in results[0]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 5


@pytest.mark.parametrize("model_type", ["roberta", "distilbert", "electra"])
def test_other_families(tmp_path: Path, model_type: str) -> None:
    names = {"roberta": "RobertaModel", "distilbert": "DistilBertModel", "electra": "ElectraModel"}
    changes: dict[str, Any] = {"model_type": model_type, "embedding_size": 64}
    if model_type == "distilbert":
        changes |= {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128}
    checked(build(tmp_path, names[model_type], **changes), "feature-extraction")


def test_random_weights_are_the_same_twice(tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", "BertModel")
    out = [tmp_path / "one", tmp_path / "two"]
    bundles = [fuselage.build(model, out=path, weights="random", targets="ort-cpu") for path in out]
    weights = "graph/model.weights"
    assert bundles[0].manifest.files[weights] == bundles[1].manifest.files[weights]


@pytest.mark.slow
def test_bert_base_with_random_weights_needs_no_network(tmp_path: Path) -> None:
    bundle = fuselage.build(
        "bert-base", out=tmp_path / "bundle", weights="random", task="feature-extraction"
    )
    report = read_report(bundle)
    assert report["model"]["weights"] == "random"
    assert report["fusion"]["attention"]["fused"] == 12
    assert report["targets"]["tensorrt-rtx"]["kernels"]["fused_attention"] == 12


def test_int8_on_too_little_text_says_so(tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", "BertModel")
    bundle = fuselage.build(
        model,
        out=tmp_path / "bundle",
        weights="random",
        targets=("ort-cpu",),
        precision="int8",
        texts=["twice the same text", "twice the same text", "another"],
    )
    notes = read_report(bundle)["notes"]
    assert any(note.startswith("calibrated on 2 distinct texts of texts") for note in notes)
