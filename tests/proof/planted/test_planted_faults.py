"""Every planted fault makes `compare` fail and name its layer, through both exporters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted.faults import FAULTS
from planted_faults import SOUND, Exporter, Row, canonical, compared, row, write_faulty

from fuselage.compiler.models.source import resolve_model
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import lowering

LAYER, LAYERS = 1, 3
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "legacy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose weights are large enough for attention to differ from an average."""
    path = tmp_path_factory.mktemp("model") / "bert"
    path.mkdir()
    config = {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": 211,
        "hidden_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 40,
        "initializer_range": 0.2,
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module", params=EXPORTERS)
def rows(
    folder: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Row]:
    """What one `compare` says of all faulty graphs and of the sound one."""
    scratch = tmp_path_factory.mktemp("planted")
    graph = canonical(resolve_model(str(folder), weights="random"), request.param, scratch)
    files = {
        fault.name: write_faulty(graph, fault, LAYER, scratch / f"{number}.onnx")
        for number, fault in enumerate(FAULTS)
    }
    files[SOUND] = scratch / "sound.onnx"
    PassPipeline(lowering("ort-cpu", "fp32")).run(graph).save(files[SOUND])
    found = compared(f"torch:random:{folder}", files, scratch / "comparison.json")
    wanted = {fault.name: fault.at(LAYER) for fault in FAULTS}
    return {name: row(name, wanted.get(name, ()), item) for name, item in found.items()}


@pytest.mark.parametrize("fault", [fault.name for fault in FAULTS])
def test_a_fault_is_caught_and_its_layer_named(rows: dict[str, Row], fault: str) -> None:
    assert rows[fault].caught
    assert rows[fault].layer is not None
    assert any(part in rows[fault].layer for part in rows[fault].wanted), str(rows[fault])


def test_the_sound_graph_passes(rows: dict[str, Row]) -> None:
    assert not rows[SOUND].caught
    assert rows[SOUND].layer is None


def test_what_only_approximates_is_told_by_its_operator(rows: dict[str, Row]) -> None:
    found = rows["tanh for erf GELU"]
    assert found.layer == f"encoder.layer.{LAYER}.intermediate.intermediate_act_fn"
    assert found.error is not None
    assert 1e-5 < found.error < 1e-2


def test_an_overflow_has_no_error_but_a_node(rows: dict[str, Row]) -> None:
    found = rows["fp16 overflow"]
    assert found.relative is None
    assert found.error is None
    assert found.node is not None
