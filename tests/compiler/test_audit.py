"""Lost fusions are told from hand-made facts of a TensorRT engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.audit import lost_fusions
from fuselage.engines.base import EngineArtifact
from fuselage.graph.model import Graph
from fuselage.passes.qdq.policy import QuantPolicy

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'


def attentions(t: str, heads: int = 2, width: int = 32) -> Graph:
    return Graph(
        ir.from_onnx_text(f"""{HEAD}net ({t}[b, s, {width}] x) => ({t}[b, s, {width}] y)
        {{ a = Attention<q_num_heads = {heads}, kv_num_heads = {heads}>(x, x, x)
           c = Attention<q_num_heads = {heads}, kv_num_heads = {heads}>(a, a, a)
           y = Neg(c) }}""")
    )


def typed(graph: Graph) -> Graph:
    dtype, shape = graph.model.graph.inputs[0].dtype, graph.model.graph.inputs[0].shape
    for node in graph.model.graph:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(dtype), shape
    return graph


def artifact(fused: int | None, *gemms: tuple[str, list[str]]) -> EngineArtifact:
    facts: dict[str, Any] = {
        "kernel_list": [
            {"name": f"k{number}", "kind": "gemm", "dtypes": dtypes, "nodes": nodes}
            for number, (dtypes, nodes) in enumerate(gemms)
        ]
    }
    if fused is not None:
        facts["kernels"] = {"total": 9, "fused_attention": fused, "gemm": len(gemms)}
    return EngineArtifact(target="tensorrt-rtx", files=("engine.json",), facts=facts)


@pytest.mark.parametrize("t", ["float16", "bfloat16"])
@pytest.mark.parametrize(("fused", "lost"), [(2, 0), (3, 0), (1, 1), (0, 1)])
def test_missing_attention_kernels_are_told(t: str, fused: int, lost: int) -> None:
    lines = lost_fusions(typed(attentions(t)), None, artifact(fused))
    assert lines == (f"{fused} of 2 attention blocks are fused attention kernels",) * lost


@pytest.mark.parametrize(
    "graph",
    [attentions("float"), attentions("float16", heads=4), attentions("float16", 2, 24)],
    ids=["float32", "heads of 8", "heads of 12"],
)
def test_attention_that_cannot_be_fused_is_not_missed(graph: Graph) -> None:
    assert lost_fusions(typed(graph), None, artifact(0)) == ()


def test_heads_of_sixteen_are_the_smallest() -> None:
    assert lost_fusions(typed(attentions("float16", 2, 32)), None, artifact(0)) != ()


def test_four_dimensional_attention_is_wanted_too() -> None:
    graph = Graph(
        ir.from_onnx_text(f"""{HEAD}net (float16[b, 2, s, 16] x) => (float16[b, 2, s, 16] y)
        {{ y = Attention(x, x, x) }}""")
    )
    assert lost_fusions(graph, None, artifact(0)) == (
        "0 of 1 attention blocks are fused attention kernels",
    )


def test_targets_without_a_kernel_list_lose_nothing() -> None:
    plain = EngineArtifact(target="ort-cpu", files=("engine.json",), facts={"nodes": {"MatMul": 3}})
    assert lost_fusions(typed(attentions("float16")), None, plain) == ()


@pytest.fixture
def linears() -> Graph:
    text = f"""{HEAD}net (float[b, s, 32] x) => (float[b, s, 32] y)
    {{ up = MatMul(x, w1)
       g = Gelu(up)
       y = MatMul(g, w2) }}"""
    random = np.random.default_rng(0)
    weights = {"w1": (32, 48), "w2": (48, 32)}
    tensors = [
        ir.tensor(random.normal(0, 1, shape).astype(np.float32), name=name)
        for name, shape in weights.items()
    ]
    graph = Graph(ir.from_onnx_text(text, tensors))
    for node in graph.model.graph:
        node.name = f"block/{node.outputs[0].name}"
    return graph


INT8, HALF = "Int8|Int8->Half", "Half|Half->Half"


@pytest.mark.parametrize(
    ("gemms", "line"),
    [
        (((INT8, ["block/up"]), (INT8, ["block/y", "block/g"])), None),
        (((INT8, ["block/up", "block/y"]),), None),
        (((INT8, ["block/up"]), (HALF, ["block/y"])),
         "1 of 2 INT8 GEMMs run in float: "
         "'g' -> 'block/y' (weight 'w2') is a gemm of Half|Half->Half"),
        (((HALF, ["block/up"]), (HALF, ["block/y"])),
         "2 of 2 INT8 GEMMs run in float: "
         "'x' -> 'block/up' (weight 'w1') is a gemm of Half|Half->Half; "
         "'g' -> 'block/y' (weight 'w2') is a gemm of Half|Half->Half"),
        ((),
         "2 of 2 INT8 GEMMs run in float: 'x' -> 'block/up' (weight 'w1') is no product; "
         "'g' -> 'block/y' (weight 'w2') is no product"),
        # One operand alone: what a product of two restored weights, or of none, reads.
        ((("Int8|Half->Half", ["block/up"]), ("Half|Int8->Half", ["block/y"])),
         "2 of 2 INT8 GEMMs run in float: "
         "'x' -> 'block/up' (weight 'w1') is a gemm of Int8|Half->Half; "
         "'g' -> 'block/y' (weight 'w2') is a gemm of Half|Int8->Half"),
        ((("Int8,Half|Int8->Half", ["block/up"]), ("Int8,Int8->Half", ["block/y"])), None),
    ],
)  # fmt: skip
def test_gemms_that_stayed_float_are_named(
    linears: Graph, gemms: tuple[tuple[str, list[str]], ...], line: str | None
) -> None:
    plan = QuantPolicy().plan(linears.model)
    assert len(plan.linears) == 2
    lines = lost_fusions(linears, plan, artifact(0, *gemms))
    assert lines == (() if line is None else (line,))


def test_other_kernels_of_that_node_do_not_count(linears: Graph) -> None:
    facts = {
        "kernels": {"fused_attention": 0},
        "kernel_list": [{"kind": "kgen", "dtypes": INT8, "nodes": ["block/up", "block/y"]}],
    }
    plan = QuantPolicy().plan(linears.model)
    engine = EngineArtifact(target="tensorrt", files=(), facts=facts)
    assert lost_fusions(linears, plan, engine) == (
        "2 of 2 INT8 GEMMs run in float: 'x' -> 'block/up' (weight 'w1') is no product; "
        "'g' -> 'block/y' (weight 'w2') is no product",
    )


def test_every_profile_has_to_have_them(linears: Graph) -> None:
    first = {"kind": "gemm", "dtypes": INT8, "nodes": ["block/up", "block/y"], "profile": 0}
    second = {"kind": "gemm", "dtypes": INT8, "nodes": ["block/up"], "profile": 1}
    facts = {"kernels": {"fused_attention": 0}, "kernel_list": [first, second]}
    plan = QuantPolicy().plan(linears.model)
    assert lost_fusions(
        linears, plan, EngineArtifact(target="tensorrt", files=(), facts=facts)
    ) == (
        "1 of 2 INT8 GEMMs run in float in profile 1: 'g' -> 'block/y' (weight 'w2') is no product",
    )


def test_attention_is_counted_in_every_profile() -> None:
    facts = {
        "kernels": {"fused_attention": 2},
        "profile_kernels": [{"fused_attention": 2}, {"fused_attention": 1}],
    }
    built = EngineArtifact(target="tensorrt-rtx", files=("engine.json",), facts=facts)
    assert lost_fusions(typed(attentions("float16")), None, built) == (
        "1 of 2 attention blocks are fused attention kernels in profile 1",
    )


def test_lost_attention_is_named_with_its_reason() -> None:
    engine = artifact(1)
    facts = dict(engine.facts) | {"decomposed_attention": [{"node": "layer.0", "reason": "odd"}]}
    assert lost_fusions(
        typed(attentions("float16")), None, EngineArtifact(target="tensorrt", files=(), facts=facts)
    ) == ("1 of 2 attention blocks are fused attention kernels; 'layer.0': odd",)


def test_a_float_engine_has_no_int8_to_lose(linears: Graph) -> None:
    assert lost_fusions(linears, None, artifact(0, (HALF, ["block/up"]))) == ()
