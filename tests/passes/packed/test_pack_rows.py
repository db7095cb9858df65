"""Texts that share rows are answered as if alone: family by family, head by head, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from families.exporters import Spelling, export
from families.models import FAMILIES

from fuselage.compiler.packing import check_packed, pack_graph
from fuselage.errors import BuildError, PassError
from fuselage.graph.model import Graph
from fuselage.passes.packed.pack_rows import PackRows
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL

KNOWN = {family.name: family for family in FAMILIES}
DYNAMO, LEGACY = Spelling("dynamo", "sdpa"), Spelling("legacy", "eager")
DYNAMO_EAGER = Spelling("dynamo", "eager")


def canonical(name: str, spelling: Spelling, folder: Path) -> Graph:
    path = folder / f"{name}.onnx"
    export(KNOWN[name], spelling, path)
    return PassPipeline(CANONICAL).run(Graph.load(path))


CASES = [
    ("bert", DYNAMO),
    ("bert", LEGACY),
    ("roberta", LEGACY),  # positions counted from the padding token
    ("albert", LEGACY),  # token types gathered by position
    ("mpnet", LEGACY),  # a bias of the distance, and counted positions
    ("modernbert", LEGACY),  # rotation and windows
    ("distilbert", LEGACY),
    ("t5-encoder", LEGACY),
    # the dynamo exporter takes seconds a family
    pytest.param("roberta", DYNAMO, marks=pytest.mark.slow),
    pytest.param("albert", DYNAMO, marks=pytest.mark.slow),
    pytest.param("mpnet", DYNAMO_EAGER, marks=pytest.mark.slow),
    pytest.param("modernbert", DYNAMO, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "spelling"), CASES, ids=lambda case: str(case))
def test_a_text_is_answered_as_if_alone(family: str, spelling: Spelling, tmp_path: Path) -> None:
    graph = canonical(family, spelling, tmp_path)
    packed = pack_graph(graph)
    assert [spec.name for spec in packed.inputs][-3:] == ["segment_ids", "position_ids", "slots"]
    assert packed.outputs[0].dims[:2] == ("rows", "length")
    assert packed.op_counts["Attention"] == graph.op_counts["Attention"]
    assert check_packed(graph, packed) < 5e-6


def test_relative_positions_between_contents_are_refused(tmp_path: Path) -> None:
    graph = canonical("deberta-v2", LEGACY, tmp_path)
    with pytest.raises(PassError, match=r"Transpose.*not known to work on each token by itself"):
        pack_graph(graph)


ENCODER = """
model (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
  => (float[batch, 8] vector) {
  h = Gather(table, input_ids)
  token = Cast<to=9>(attention_mask)
  row = Unsqueeze(token, axes12)
  hidden = Where(row, zero, fill)
  n = Shape<start=1, end=2>(input_ids)
  target = Concat<axis=0>(ones, n, one)
  mask = Expand(hidden, target)
  a = Attention<q_num_heads=2, kv_num_heads=2>(h, h, h, mask)
  x = Add(h, a)
  BODY
}
"""
FIRST = "vector = Gather<axis=1>(x, start)"
SLICED = "cut = Slice(x, begin, one, one)\n vector = Squeeze(cut, one)"
MEAN = """m = Unsqueeze(attention_mask, axis2)
  f = Cast<to=1>(m)
  kept = Mul(x, f)
  s = ReduceSum<keepdims=0>(kept, one)
  c = ReduceSum<keepdims=0>(f, one)
  vector = Div(s, c)"""
POOLER = f"{FIRST.replace('vector', 'p')}\n g = Gemm(p, weight, bias)\n vector = Tanh(g)"


def encoder(body: str) -> Graph:
    random = np.random.default_rng(3)
    constants: dict[str, Any] = {
        "table": random.normal(size=(40, 8)).astype(np.float32),
        "weight": random.normal(size=(8, 8)).astype(np.float32),
        "bias": random.normal(size=8).astype(np.float32),
        "zero": np.float32(0),
        "fill": np.float32(-3e38),
        "start": np.array(0),
        "last": np.array(-1),
        "begin": np.array([0]),
        "one": np.array([1]),
        "ones": np.array([1, 1]),
        "axes12": np.array([1, 2]),
        "axis2": np.array([2]),
    }
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]>\n' + ENCODER.replace("BODY", body)
    )
    values = ir.convenience.create_value_mapping(model.graph)
    for name in constants.keys() & values.keys():
        value, tensor = values[name], ir.tensor(constants[name], name=name)
        value.const_value, value.dtype, value.shape = tensor, tensor.dtype, ir.Shape(tensor.shape)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    return PassPipeline(CANONICAL).run(Graph(model))


@pytest.mark.parametrize("body", [FIRST, SLICED, MEAN, POOLER])
def test_pooling_is_by_text(body: str) -> None:
    graph = encoder(body)
    packed = pack_graph(graph)
    assert packed.outputs[0].dims == ("texts", 8)
    assert check_packed(graph, packed) < 5e-6


def test_rows_hold_texts_apart_and_empty_slots_are_zero() -> None:
    packed = pack_graph(encoder(MEAN.replace("Div(s, c)", "Identity(s)")))
    session = ort.InferenceSession(ir.to_proto(packed.model).SerializeToString())
    feeds = {
        "input_ids": np.array([[4, 5, 6, 7, 0]]),
        "segment_ids": np.array([[1, 1, 2, 2, 0]]),
        "position_ids": np.array([[0, 1, 0, 1, 0]]),
        "slots": np.array([1, 2, 3]),
    }
    feeds = {spec.name: feeds[spec.name] for spec in packed.inputs}
    before = session.run(None, feeds)[0]
    feeds["input_ids"] = np.array([[4, 5, 9, 11, 30]])
    after = session.run(None, feeds)[0]
    assert (before[0] == after[0]).all()
    assert not np.allclose(before[1], after[1])
    assert (after[2] == 0).all()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (FIRST.replace("start", "last"), "n_vector.*pools tokens otherwise than by their sum"),
        ("vector = ReduceMax<keepdims=0>(x, one)", "n_vector.*pools tokens otherwise"),
        ("y = Softmax<axis=1>(x)\n vector = ReduceSum<keepdims=0>(y, one)", "n_y.*each token by"),
        (
            "t = Transpose<perm=[0,2,1]>(x)\n m = MatMul(x, t)\n o = MatMul(m, x)\n"
            " vector = ReduceSum<keepdims=0>(o, one)",
            "each token by itself",
        ),
    ],
)
def test_what_mixes_tokens_is_refused(body: str, reason: str) -> None:
    with pytest.raises(PassError, match=reason):
        pack_graph(encoder(body))


def test_a_graph_without_attention_is_refused() -> None:
    graph = encoder("vector = Gather<axis=1>(h, start)")
    with pytest.raises(PassError, match="no fused attention"):
        pack_graph(graph)


def test_a_second_run_changes_nothing() -> None:
    packed = pack_graph(encoder(MEAN)).clone()
    assert not PackRows()(packed.model).modified


def test_a_graph_that_mixes_texts_does_not_pass_the_check() -> None:
    graph = encoder(MEAN)
    packed = pack_graph(graph).clone()
    (where,) = [node for node in packed.model.graph if node.op_type == "Where"]
    same = where.inputs[0]
    assert same is not None
    producer = same.producer()
    assert producer is not None
    producer.op_type = "LessOrEqual"  # texts see those behind them
    with pytest.raises(BuildError, match="otherwise in company than alone"):
        check_packed(graph, packed)
