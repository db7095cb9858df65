"""Misplaced Q/DQ nodes, really built: TensorRT-RTX runs them in float, and the audit says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.audit import lost_fusions
from fuselage.compiler.quantization.quantizable import quantizable
from fuselage.engines.base import BuildConfig, EngineArtifact
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import lowering
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.params import QuantParams
from fuselage.passes.qdq.policy import QuantPlan, QuantPolicy

pytest.importorskip("tensorrt_rtx")

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
BLOCK = """block (float[batch, sequence, 64] x) => (float[batch, sequence, 64] y) {
    n = Relu(x)
    q = MatMul(n, wq)
    k = MatMul(n, wk)
    v = MatMul(n, wv)
    a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    o = MatMul(a, wo)
    y = Relu(o)
}"""
PACKED = """packed (float[batch, sequence, 64] x) => (float[batch, sequence, 64] y) {
    n = Relu(x)
    p = MatMul(n, wp)
    q, k, v = Split <axis = -1, num_outputs = 3> (p)
    a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    o = MatMul(a, wo)
    y = Relu(o)
}"""
WIDTHS = {"wq": 64, "wk": 64, "wv": 64, "wo": 64, "wp": 192}

Change = Callable[[ir.Graph], object]


def block(text: str = BLOCK) -> Graph:
    rng = np.random.default_rng(0)
    tensors = [
        ir.tensor(rng.normal(0, 0.1, (64, width)).astype(np.float32), name=name)
        for name, width in WIDTHS.items()
        if name in text
    ]
    model = ir.from_onnx_text(HEAD + text, tensors)
    for value in model.graph.initializers.values():
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), value.const_value.shape
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
        for output in node.outputs:
            output.type = ir.TensorType(ir.DataType.FLOAT)
            width = {"p": 192}.get(str(output.name), 64)
            output.shape = ir.Shape(["batch", "sequence", width])
    return Graph(model)


def built(
    graph: Graph, folder: Path, change: Change = list
) -> tuple[Graph, QuantPlan, EngineArtifact]:
    plan = QuantPolicy().plan(graph.model)
    ranges = {name: QuantParams.symmetric(4.0) for name in plan.activations}
    graph = PassPipeline((InsertQdq(ranges),)).run(graph)
    change(graph.model.graph)
    graph = PassPipeline(lowering("tensorrt-rtx", "int8")).run(graph)
    profile = ShapeProfile.parse("batch=1:2:4,sequence=1:16:32")
    config = BuildConfig(profile=profile, compute_capabilities=("SM86",))
    return graph, plan, TensorRtBackend.of("tensorrt-rtx").build(graph, config, folder)


def node_of(graph: ir.Graph, output: str) -> ir.Node:
    return next(node for node in graph if node.outputs[0].name == output)


def set_constant(value: ir.Value | None, array: np.ndarray) -> None:
    assert value is not None
    value.const_value = ir.tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)


def scales_along_k(graph: ir.Graph) -> None:
    restored = node_of(graph, "wo/dequantized")
    restored.attributes["axis"] = ir.AttrInt64("axis", 0)


def float_weight(graph: ir.Graph) -> None:
    weight = ir.tensor(np.full((64, 64), 0.1, np.float32), name="plain")
    value = ir.Value(name="plain", type=ir.TensorType(weight.dtype), shape=weight.shape)
    value.const_value = weight
    graph.register_initializer(value)
    node_of(graph, "o").replace_input_with(1, value)


def float_activation(graph: ir.Graph) -> None:
    node_of(graph, "o").replace_input_with(0, node_of(graph, "a").outputs[0])


def activation_by_channel(graph: ir.Graph) -> None:
    scale, zeros = (
        ir.Value(name=name, type=ir.TensorType(dtype))
        for name, dtype in (("scales", ir.DataType.FLOAT), ("zeros", ir.DataType.INT8))
    )
    set_constant(scale, np.linspace(0.02, 0.04, 64).astype(np.float32))
    set_constant(zeros, np.zeros(64, np.int8))
    for value in (scale, zeros):
        graph.register_initializer(value)
    for name in ("a/quantized", "a/dequantized"):
        node = node_of(graph, name)
        node.replace_input_with(1, scale)
        node.replace_input_with(2, zeros)
        node.attributes["axis"] = ir.AttrInt64("axis", 2)


@pytest.mark.parametrize(
    ("change", "rule", "dtypes"),
    [
        (scales_along_k, "output-channel-scales", "Int8|Half,Int8->Half"),
        (float_weight, "both-operands", "Int8|Half->Half"),
        (float_activation, "both-operands", "Half|Half,Int8->Half"),
        (activation_by_channel, "per-tensor-activation", "Int8|Half,Int8,Half->Half"),
    ],
)
def test_lint_and_audit_name_an_edge_that_runs_in_float(
    tmp_path: Path, change: Change, rule: str, dtypes: str
) -> None:
    graph, plan, artifact = built(block(), tmp_path, change)
    assert rule in {found.rule for found in lint_qdq(graph.model)}
    assert artifact.facts["kernels"]["int8_gemm"] == 1
    assert lost_fusions(graph, plan, artifact) == (
        f"1 of 4 INT8 GEMMs run in float: 'a' -> 'node_o' (weight 'wo') is a runtime_fusion of "
        f"{dtypes}",
    )


def test_one_kernel_may_be_three_planned_products(tmp_path: Path) -> None:
    graph, plan, artifact = built(block(), tmp_path)
    kernels = artifact.facts["kernel_list"]
    merged = next(k for k in kernels if k["kind"] == "gemm" and "node_q" in k["nodes"])
    assert {"node_q", "node_k", "node_v"} <= set(merged["nodes"])
    assert artifact.facts["kernels"]["int8_gemm"] == 2
    assert artifact.facts["kernels"]["fused_attention"] == 1
    assert len(plan.linears) == 4
    assert lint_qdq(graph.model) == ()
    assert lost_fusions(graph, plan, artifact) == ()


def test_packed_products_run_in_float_until_they_are_parted(tmp_path: Path) -> None:
    graph, plan, artifact = built(block(PACKED), tmp_path)
    assert lost_fusions(graph, plan, artifact) == (
        "1 of 2 INT8 GEMMs run in float: 'n' -> 'node_p' (weight 'wp') is a runtime_fusion of "
        "Int8,Half->Half",
    )
    graph, plan, artifact = built(quantizable(block(PACKED)), tmp_path)
    assert len(plan.linears) == 4
    assert artifact.facts["kernels"]["int8_gemm"] == 2
    assert lost_fusions(graph, plan, artifact) == ()
