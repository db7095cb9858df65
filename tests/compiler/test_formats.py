"""Which policy a precision is, where its ranges come from, and what is refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import fuselage
from fuselage.calibration.text.data import CalibrationSet
from fuselage.compiler.checks.audit import lost_fusions
from fuselage.compiler.checks.proof import GATES
from fuselage.compiler.cli import run
from fuselage.compiler.models.source import ModelSource
from fuselage.compiler.precision import QUANTIZED
from fuselage.compiler.progress import Journal, Silent
from fuselage.compiler.quantization.formats import CAVEATS, policy_of, ranges_of
from fuselage.compiler.recipe import Request, recipe_of
from fuselage.engines.base import EngineArtifact
from fuselage.errors import CalibrationError
from fuselage.graph.model import Graph
from fuselage.passes.qdq.params import FP8
from fuselage.passes.qdq.policy import QuantPolicy

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
TEXTS = CalibrationSet.from_texts([f"text {number}" for number in range(20)])


def net(text: str, **shapes: tuple[int, ...]) -> Graph:
    tensors = [ir.tensor(np.ones(shape, np.float32), name=name) for name, shape in shapes.items()]
    model = ir.from_onnx_text(HEAD + text, tensors)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return Graph(model)


@pytest.fixture
def linear() -> Graph:
    return net("g (float[b, s, 32] x) => (float[b, s, 32] y) { y = MatMul(x, w) }", w=(32, 32))


def never(*_: Any) -> Any:
    raise AssertionError("text was tokenised")


def test_every_quantised_precision_has_a_policy_and_a_gate() -> None:
    assert policy_of("int8") == QuantPolicy()
    assert policy_of("int8-weight-only") == QuantPolicy(weight_only=True)
    assert policy_of("fp8") == QuantPolicy(scheme=FP8)
    assert policy_of("int8", embeddings=True) == QuantPolicy(embeddings=True)
    assert set(QUANTIZED) <= set(GATES)
    assert {precision for _, precision in CAVEATS} <= set(QUANTIZED)


def test_weights_alone_need_no_run_of_the_model(linear: Graph) -> None:
    policy = policy_of("int8-weight-only")
    table = ranges_of(linear, TEXTS, never, policy, Journal(Silent()))
    assert (table.method, table.texts, table.ranges) == ("none", 0, {})
    assert [step.name for step in table.passes(policy)] == ["insert-qdq"]


def test_a_graph_without_linears_has_no_weights_to_quantise() -> None:
    graph = net("g (float[b, s, 32] x) => (float[b, s, 32] y) { y = Relu(x) }")
    policy = policy_of("int8-weight-only")
    with pytest.raises(
        CalibrationError, match=r"found none .the graph has no MatMul or Gemm.; use"
    ):
        ranges_of(graph, TEXTS, never, policy, Journal(Silent()))


def test_a_graph_without_tables_has_no_embeddings_to_quantise(linear: Graph) -> None:
    policy = policy_of("int8", embeddings=True)
    with pytest.raises(CalibrationError, match="no rows of a constant matrix are looked up"):
        ranges_of(linear, TEXTS, never, policy, Journal(Silent()))


def test_tables_that_stay_float_are_named_with_their_reason() -> None:
    graph = net(
        "g (int64[b, s] ids) => (float[b, s, 32] y) { e = Gather(t, ids) y = MatMul(e, w) }",
        t=(40, 32), w=(32, 32),
    )  # fmt: skip
    policy = policy_of("int8", embeddings=True)
    with pytest.raises(CalibrationError, match=r"found none .node_e: 1,280 elements: fewer than"):
        ranges_of(graph, TEXTS, never, policy, Journal(Silent()))


@pytest.mark.parametrize(
    ("multiplied", "line"),
    [(1, None), (2, None), (0, "1 of 1 int8 weights are restored to float at each run")],
)
def test_weights_that_onnx_runtime_restores_are_told(
    linear: Graph, multiplied: int, line: str | None
) -> None:
    facts = {"nodes": {"com.microsoft::MatMulNBits": multiplied}}
    built = EngineArtifact(target="ort-cpu", files=(), facts=facts)
    policy = policy_of("int8-weight-only")
    plan = policy.plan(linear.model)
    assert lost_fusions(linear, plan, built, policy) == (() if line is None else (line,))
    assert lost_fusions(linear, plan, built, policy_of("int8")) == ()


REFUSED = [
    (["--precision", "int8-weight-only", "--text", "TEXT"],
     "precision 'int8-weight-only' is not calibrated; leave the texts out, or ask for int8 or fp8"),
    (["--precision", "fp8", "--target", "ort-cpu"], "CPUs have no FP8 arithmetic; ask for fp32"),
    (["--precision", "fp8", "--target", "tensorrt-rtx", "--compute-capability", "SM86"],
     "SM86 has no FP8, which came with SM89; leave it out, or ask for int8"),
    (["--precision", "fp8", "--target", "tensorrt-rtx", "--int8-embeddings"],
     "precision 'fp8' keeps embedding tables in float; leave it out, or ask for int8 or"),
    (["--precision", "fp32", "--int8-embeddings"], "'fp32' keeps embedding tables in float"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "reason"), REFUSED)
def test_what_a_precision_cannot_use_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    if "tensorrt-rtx" in options:
        pytest.importorskip("tensorrt_rtx")
    file, out = tmp_path / "texts.txt", tmp_path / "b"
    file.write_text("one text\nanother text\n", encoding="utf-8")
    asked = [str(file) if option == "TEXT" else option for option in options]
    assert run(["build", "minilm", "--out", str(out), *asked]) == 1
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_the_option_reaches_the_request_and_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Request] = []

    def stop(request: Request, *_: Any, **__: Any) -> None:
        requests.append(request)
        raise fuselage.FuselageError("asked")

    for module in ("fuselage.compiler.cli.build", "fuselage.compiler.pipeline"):
        monkeypatch.setattr(sys.modules[module], "run_build", stop)
    assert run(["build", "minilm", "--precision", "int8", "--int8-embeddings"]) == 1
    with pytest.raises(fuselage.FuselageError, match="asked"):
        fuselage.build("minilm", out="b", precision="int8")
    assert [request.int8_embeddings for request in requests] == [True, False]
    source = ModelSource(
        id="m", folder=tmp_path, revision=None, config={}, digest="d" * 64, weights="random"
    )
    first, second = (recipe_of(request, source, ()) for request in requests)
    assert (first["int8_embeddings"], second["int8_embeddings"]) == (True, False)
