"""Weights alone, FP8 and embedding tables, really built: what TensorRT-RTX makes of each form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.audit import lost_fusions
from fuselage.engines.base import BuildConfig, EngineArtifact
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.errors import BuildError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.passes.lint.tensorrt import lint
from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import Precision, lowering
from fuselage.passes.qdq.gather_codes import GatherCodes
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.params import FP8, QuantParams
from fuselage.passes.qdq.policy import QuantPolicy

pytest.importorskip("tensorrt_rtx")

MODEL = """<ir_version: 10, opset_import: ["" : 23]>
net (int64[batch, sequence] ids) => (float[batch, sequence, 64] y) {
    rows = Gather(table, ids)
    e = LayerNormalization <axis = -1> (rows, gain)
    up = MatMul(e, w1)
    active = Relu(up)
    down = MatMul(active, w2)
    y = Relu(down)
}"""
SHAPES = {"table": (1 << 14, 64), "gain": (64,), "w1": (64, 2048), "w2": (2048, 64)}
TABLE_BYTES = 1 << 20

Form = Callable[..., tuple[Graph, EngineArtifact]]


@pytest.fixture(scope="module")
def net() -> Graph:
    rng = np.random.default_rng(0)
    tensors = [
        ir.tensor(rng.normal(0, 0.1, shape).astype(np.float32), name=name)
        for name, shape in SHAPES.items()
    ]
    graph = Graph(ir.from_onnx_text(MODEL, tensors))
    for value in graph.model.graph.initializers.values():
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), value.const_value.shape
    for node in graph.model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return PassPipeline((InferShapes(),)).run(graph)


@pytest.fixture
def form(net: Graph, tmp_path: Path) -> Form:
    """Insert as a policy says, lower, build."""

    def make(
        policy: QuantPolicy | None, precision: Precision, *gpus: str, change: Any = None
    ) -> tuple[Graph, EngineArtifact]:
        graph = net
        if policy is not None:
            names = policy.plan(net.model).activations
            ranges = {name: QuantParams.symmetric(4.0, scheme=policy.scheme) for name in names}
            graph = PassPipeline((InsertQdq(ranges, policy=policy),)).run(graph)
        graph = PassPipeline(lowering("tensorrt-rtx", precision)).run(graph)
        graph = graph if change is None else change(graph)
        profile = ShapeProfile.parse("batch=1:2:4,sequence=1:16:32")
        folder = tmp_path / f"engine{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        config = BuildConfig(profile=profile, compute_capabilities=gpus)
        return graph, TensorRtBackend.of("tensorrt-rtx").build(graph, config, folder)

    return make


def of(artifact: EngineArtifact, node: str) -> Mapping[str, Any]:
    """The kernel that multiplies or looks up in a node."""
    found = [kernel for kernel in artifact.facts["kernel_list"] if node in kernel["nodes"]]
    return found[0]


def test_weights_alone_stay_int8_in_the_plan_and_are_multiplied_in_float(
    net: Graph, form: Form
) -> None:
    _, half = form(None, "fp16", "SM86")
    policy = QuantPolicy(weight_only=True)
    graph, artifact = form(policy, "int8-weight-only", "SM80", "SM86", "SM89", "SM120")
    kernels = [of(artifact, node) for node in ("node_up", "node_down")]
    assert {kernel["kind"] for kernel in kernels} == {"runtime_fusion"}
    assert all(kernel["dtypes"].endswith("|Half,Int8->Half") for kernel in kernels)
    saved = half.facts["bytes"] - artifact.facts["bytes"]
    assert saved > 0.8 * 2 * 64 * 2048  # a byte an element of both weights
    assert lost_fusions(graph, policy.plan(net.model), artifact, policy) == ()
    assert lint(graph.model, "tensorrt-rtx") == ()


def test_fp16_weights_are_missed_where_int8_was_planned(net: Graph, form: Form) -> None:
    policy = QuantPolicy(weight_only=True, embeddings=True)
    graph, half = form(None, "fp16", "SM86")
    lines = lost_fusions(graph, policy.plan(net.model), half, policy)
    assert len(lines) == 2
    assert lines[0].startswith("2 of 2 int8 weights run in float: 'e' -> 'node_up'")
    assert lines[1] == "1 of 1 INT8 tables are held in float, first 'node_rows'"


@pytest.mark.parametrize("gpus", [("SM89",), ("SM120",), ("SM89", "SM120")])
def test_fp8_multiplies_fp8_by_fp8(net: Graph, form: Form, gpus: tuple[str, ...]) -> None:
    policy = QuantPolicy(scheme=FP8)
    graph, artifact = form(policy, "fp8", *gpus)
    assert artifact.facts["kernels"]["gemm_dtypes"] == {"FP8|FP8->Half": 2}
    assert lost_fusions(graph, policy.plan(net.model), artifact, policy) == ()
    assert lint(graph.model, "tensorrt-rtx", None, gpus) == ()


def test_fp8_gemms_that_are_int8_are_missed(net: Graph, form: Form) -> None:
    int8, fp8 = QuantPolicy(), QuantPolicy(scheme=FP8)
    graph, artifact = form(int8, "int8", "SM89")
    (line,) = lost_fusions(graph, fp8.plan(net.model), artifact, fp8)
    assert line.startswith("2 of 2 FP8 GEMMs run in float: 'e' -> 'node_up' (weight 'w1') is a ")


def test_fp8_does_not_build_for_gpus_before_it(form: Form) -> None:
    with pytest.raises(BuildError, match="fp8_e4m3"):
        form(QuantPolicy(scheme=FP8), "fp8", "SM86", "SM89")


@pytest.mark.parametrize("weight_only", [False, True])
def test_tables_are_gathered_as_codes(net: Graph, form: Form, weight_only: bool) -> None:
    policy = QuantPolicy(embeddings=True, weight_only=weight_only)
    precision: Precision = "int8-weight-only" if weight_only else "int8"
    _, before = form(QuantPolicy(weight_only=weight_only), precision, "SM86")
    graph, artifact = form(policy, precision, "SM86")
    assert "Int8" in of(artifact, "node_rows")["dtypes"].partition("|")[2]
    saved = before.facts["bytes"] - artifact.facts["bytes"]
    assert 0.9 * TABLE_BYTES < saved < TABLE_BYTES  # float16 to int8, less a scale a row
    assert lost_fusions(graph, policy.plan(net.model), artifact, policy) == ()
    assert lint(graph.model, "tensorrt-rtx") == ()


def test_codes_behind_gather_do_not_build(form: Form) -> None:
    """Why the order that ONNX Runtime needs is a lowering of its own."""
    policy = QuantPolicy(embeddings=True, weight_only=True)
    with pytest.raises(BuildError):
        form(policy, "int8-weight-only", "SM86", change=PassPipeline((GatherCodes(),)).run)
