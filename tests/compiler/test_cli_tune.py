"""``fuselage tune`` writes a cost table; ``--costs`` lowers by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from fuselage.compiler import tuning
from fuselage.compiler.tuning import load_costs
from fuselage.passes.costs import CostTable

Cli = Any


@pytest.fixture
def normed(tmp_path: Path) -> Path:
    """A residual sum and its normalisation."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 23]>
        f (float[batch, s, 4] x, float[batch, s, 4] r) => (float[batch, s, 4] y)
        <float[4] gamma = {1.0, 2.0, 3.0, 4.0}, float[4] beta = {0.0, 1.0, 0.0, 1.0}>
        { a = Add(x, r)  y = LayerNormalization(a, gamma, beta) }"""
    )
    ir.save(model, tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_tune_writes_the_table_it_prints(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "SHAPES", ((1, 4, 128),))
    monkeypatch.setattr(tuning, "_LEAST_ROUNDS", 3)
    table = tmp_path / "costs.json"
    code, out, err = cli("tune", table, "--seconds", "0", "--threads", "1", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == json.loads(table.read_text())
    assert f"written to {table}" in err
    assert load_costs(table) == (CostTable.load(table), None)
    assert CostTable.load(table).threads == 1


def test_a_table_decides_how_a_graph_is_lowered(cli: Cli, normed: Path, tmp_path: Path) -> None:
    shipped = CostTable.shipped("ort-cpu")
    assert shipped is not None
    facts = shipped.facts()
    for row in facts["measurements"]:
        if row["form"] == "SkipLayerNormalization":
            row["ratio"] = 0.5
    (tmp_path / "costs.json").write_text(json.dumps(facts))
    out = tmp_path / "out.onnx"
    arguments = ("optimize", normed, out, "--target", "ort-cpu")
    assert cli(*arguments)[0] == 0
    assert [node.op_type for node in ir.load(out).graph] == ["Add", "LayerNormalization"]
    assert cli(*arguments, "--costs", tmp_path / "costs.json")[0] == 0
    assert [node.op_type for node in ir.load(out).graph] == ["SkipLayerNormalization"]


def test_a_table_of_another_machine_is_said(cli: Cli, normed: Path, tmp_path: Path) -> None:
    shipped = CostTable.shipped("ort-cpu")
    assert shipped is not None
    facts = shipped.facts() | {"machine": "Abacus 12", "runtime": "onnxruntime 0.1"}
    table, out = tmp_path / "costs.json", tmp_path / "out.onnx"
    arguments = ("optimize", normed, out, "--target", "ort-cpu", "--costs", table)
    table.write_text(json.dumps(facts))
    code, _, err = cli(*arguments)
    assert code == 0
    assert "was measured on Abacus 12 with onnxruntime 0.1, this is " in err
    table.write_text(json.dumps(facts | {"target": "tensorrt"}))
    code, _, err = cli(*arguments)
    assert code == 1
    assert "expected a cost table of ort-cpu, got one of tensorrt" in err


def test_tune_needs_a_place_before_it_measures(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "tune", None)
    code, _, err = cli("tune", tmp_path / "none" / "costs.json")
    assert code == 1
    assert "does not exist; create it first" in err
    assert cli("tune", tmp_path / "costs.json", "--seconds", "-1")[0] == 2


def test_a_file_that_is_no_table_stops_before_anything_is_written(
    cli: Cli, normed: Path, tmp_path: Path
) -> None:
    (tmp_path / "costs.json").write_text("{}")
    out = tmp_path / "out.onnx"
    code, _, err = cli(
        "optimize", normed, out, "--target", "ort-cpu", "--costs", tmp_path / "costs.json"
    )
    assert code == 1
    assert "expected a cost table" in err
    assert not out.exists()
    missing = tmp_path / "none.json"
    code, _, err = cli("optimize", normed, out, "--target", "ort-cuda", "--costs", missing)
    assert code == 1
    assert f"costs {str(missing)!r}: ort-cuda does not choose by cost, ort-cpu does" in err
    code, _, err = cli("optimize", normed, out, "--target", "ort-cpu", "--costs", missing)
    assert code == 1
    assert "none.json" in err
    assert not out.exists()
