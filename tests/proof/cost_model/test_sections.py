"""What passes did, the document, and the sections of ``fuselage inspect``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fuselage.compiler.cli import run
from fuselage.engines.bundle import Bundle
from fuselage.graph.model import Graph
from fuselage.passes.presets import CANONICAL
from fuselage.proof.cost_model.document import document
from fuselage.proof.cost_model.examine import examine
from fuselage.proof.cost_model.shape import CostShape
from fuselage.proof.cost_model.stages import recorded, run_and_count
from fuselage.proof.cost_model.subject import Costed, open_engine, open_file

from .conftest import Parse

_SPELLED = """
g (float[batch, sequence, 4] x) => (float[batch, sequence, 4] y)
{
    root = Constant<value = float {1.4142135}>()
    one = Constant<value = float {1.0}>()
    half = Constant<value = float {0.5}>()
    d = Div(x, root)
    e = Erf(d)
    p = Add(e, one)
    m = Mul(x, p)
    y = Mul(m, half)
}
"""


def test_passes_say_what_they_removed(parse: Parse) -> None:
    stages = list(run_and_count(parse(_SPELLED), CANONICAL))
    assert stages[0].stage == "as given"
    assert len(stages) == len(CANONICAL) + 1
    fused = next(stage for stage in stages if stage.stage == "fuse-gelu")
    assert fused.rewrites == 1
    assert fused.removed is not None
    assert fused.removed["Gelu"] == -1
    assert fused.removed["Mul"] == 2
    assert str(stages[-1].flops) == "20*batch*sequence"  # five for each of four channels
    # eleven tensors of 16 bytes a token, three scalars that are written once and read once
    assert str(stages[0].moved) == "176*batch*sequence + 24"
    assert str(stages[-1].moved) == "32*batch*sequence"


def test_recorded_stages_have_nodes_alone() -> None:
    fact = {"name": "p", "nodes_after": 3, "rewrites": 2, "refusals": [{}], "rolled_back": None}
    (stage,) = recorded([fact])
    assert (stage.stage, stage.nodes, stage.rewrites, stage.refusals) == ("p", 3, 2, 1)
    assert stage.flops is None


def test_a_document_without_timings(block: Graph, tmp_path: Path) -> None:
    path = block.save(tmp_path / "block.onnx")[0]
    facts = document(examine(open_file(path), CostShape(2, 5), threads=1))
    json.dumps(facts, allow_nan=False)
    assert (facts["schema"], facts["kind"]) == (1, "cost-model")
    assert facts["shape"] == {"text": "2x5", "sizes": {"batch": 2, "sequence": 5}}
    attention = next(node for node in facts["nodes"] if node["op"] == "Attention")
    assert attention["flops"] == {"text": "44*batch*sequence*sequence", "value": 2200}
    assert attention["floor_ms"] > 0
    assert attention["predicted_ms"] is None
    assert facts["fit"] is facts["errors"] is None
    assert facts["formulas"]["MatMul"] == "2 K |Y|"
    assert facts["unknown"] == []


def test_nodes_of_a_plan_are_joined_with_its_kernels(block: Graph, tmp_path: Path) -> None:
    path = block.save(tmp_path / "block.onnx")[0]
    kernels = (
        {"name": "k", "kind": "gemm", "dtypes": "Half|Half->Half", "nodes": ["n_u"], "profile": 0},
        {"name": "f", "kind": "kgen", "dtypes": "Half->Half", "nodes": ["n_g"], "profile": 0},
    )
    plan = Costed(
        name="bundle",
        target="tensorrt",
        precision="fp16",
        path=path,
        graph=Graph.load(path),
        kernels=kernels,
        capabilities=("SM89", "SM199"),
    )
    facts = document(examine(plan, CostShape(2, 5)))
    nodes = {node["name"]: node for node in facts["nodes"]}
    assert nodes["n_u"]["kernel"] == "k"
    assert nodes["n_r"]["kernel"] is None
    assert facts["peaks"]["source"] == "data sheet of L4 (SM89)"
    # 2*5 tokens, [8, 16] in 16 bits: 10*8*2 + 8*16*2 + 10*16*2 bytes at 300 GB/s and a launch
    assert facts["kernels"][0]["modelled_ms"] == pytest.approx(0.0025 + 736 / 300e9 * 1e3, abs=1e-6)
    assert facts["kernels"][1]["nodes"] == ["n_g"]
    assert facts["notes"] == []
    unnamed = examine(replace(plan, capabilities=()), CostShape(2, 5))
    assert unnamed.notes == ("the engine names no GPU: floors are those of SM90",)


def test_an_engine_of_a_bundle_is_joined_with_its_source(bundle: Bundle) -> None:
    model = examine(open_engine(bundle.root), CostShape(2, 5), threads=1)
    facts = document(model)
    assert facts["target"] == "ort-cpu"
    assert facts["precision"] == "fp32"
    fused = next(node for node in facts["nodes"] if node["op"] == "com.microsoft::BiasGelu")
    assert len(fused["from"]) == 2
    assert any(name.endswith("Gelu") for name in fused["from"])
    assert not facts["unknown"]
    assert fused["kernel"] == "com.microsoft::BiasGelu"


def test_inspect_writes_the_document(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "costs.json"
    arguments = [str(bundle.root), "--costs", "--passes", "--shape", "2x8", "--out", str(out)]
    assert run(["inspect", *arguments, "--threads", "1", "--json"]) == 0
    shown = capsys.readouterr().out
    facts = json.loads(out.read_text())
    assert json.loads(shown.splitlines()[-1]) == facts
    stages = [stage["stage"] for stage in facts["passes"]]
    assert stages[0] == "export"
    assert stages[-2:] == ["canonical graph", "engine ort-cpu"]
    assert facts["passes"][-1]["flops"]["value"] > 0
    assert "where the time goes" in shown
    assert "stages at 2x8" in shown


def test_inspect_runs_the_passes_of_a_file(
    parse: Parse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = parse(_SPELLED).save(tmp_path / "spelled.onnx")[0]
    assert run(["inspect", str(path), "--passes", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["passes"][0]["stage"] == "as given"
    assert facts["passes"][-1]["flops"] == {"text": "20*batch*sequence", "value": 20 * 8 * 128}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--costs", "--shape", "0x4"], 1, "expected BATCHxSEQUENCE of at least 1x1"),
        (["--measure"], 2, "--measure and --out go with --costs"),
        (["--costs", "--target", "tensorrt"], 1, "this bundle has no target 'tensorrt'"),
        (["--costs", "--out", "nowhere/costs.json"], 1, "there is no folder nowhere"),
    ],
)
def test_nonsense_is_refused(
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run(["inspect", str(bundle.root), *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())
