"""Float16 graphs from outside, judged in float32: roundings neither hide nor feign a fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.bisect import bisect
from fuselage.compiler.checks.check_pass import NumberCheck
from fuselage.compiler.checks.reference import answers_to
from fuselage.compiler.checks.verified import run_passes
from fuselage.compiler.checks.widen import holds_float16, widen_halves
from fuselage.graph.model import Graph
from fuselage.passes.base import EXACT, Pass, PassResult, result
from fuselage.passes.presets import CANONICAL

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
net (float16[batch, sequence, 16] x, bool flag) => (float16[batch, sequence, 16] y)
{
    q0 = MatMul(x, wq)  k0 = MatMul(x, wk)  v0 = MatMul(x, wv)
    q1 = Reshape(q0, split)  k1 = Reshape(k0, split)  v1 = Reshape(v0, split)
    q = Transpose<perm = [0, 2, 1, 3]>(q1)  k = Transpose<perm = [0, 2, 3, 1]>(k1)
    v = Transpose<perm = [0, 2, 1, 3]>(v1)
    s0 = MatMul(q, k)  s = Div(s0, root)  p = Softmax<axis = -1>(s)  o0 = MatMul(p, v)
    o1 = Transpose<perm = [0, 2, 1, 3]>(o0)  o = Reshape(o1, join)
    z = Add(o, x)
    y = LayerNormalization(z, gain)
}"""

BRANCHES = """z = If (flag) <
        then_branch = t () => (float16[batch, sequence, 16] a) { a = Add(o, x) },
        else_branch = e () => (float16[batch, sequence, 16] b) {
            w = Cast<to = 1>(o)  h = Constant<value = float16 {2}>()  u = Cast<to = 10>(w)
            b = Mul(u, h) } >"""


def attention(last: str = "z = Add(o, x)") -> Graph:
    random = np.random.default_rng(5)
    arrays = {f"w{part}": random.normal(0, 0.3, (16, 16)).astype(np.float16) for part in "qkv"}
    arrays["gain"] = random.normal(1, 0.3, 16).astype(np.float16)
    arrays["root"] = np.array(8**0.5, np.float16)
    shapes = {"split": np.array([0, 0, 2, 8]), "join": np.array([0, 0, 16])}
    tensors = [ir.tensor(array, name=name) for name, array in (arrays | shapes).items()]
    model = ir.from_onnx_text(TEXT.replace("z = Add(o, x)", last), tensors)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(value.const_value.shape)
    return Graph(model)


def scaled(model: ir.Model, factor: float) -> None:
    """Multiply the scale of the scores."""
    value = model.graph.initializers["root"]
    assert value.const_value is not None
    array = value.const_value.numpy().astype(np.float64)
    value.const_value = ir.tensor((array * factor).astype(np.float16), name="root")


@dataclass(frozen=True)
class Planted(Pass):
    """A pass that is wrong by less than float16 can tell."""

    name = "planted"

    def call(self, model: ir.Model) -> PassResult:
        scaled(model, 1.001)
        return result(model, 1)


def test_every_half_is_widened_branches_and_inputs_too() -> None:
    graph = attention(BRANCHES)
    assert holds_float16(graph)
    wide = widen_halves(graph)
    assert not holds_float16(wide)
    assert [spec.dtype for spec in wide.inputs] == ["float32", "bool"]
    assert [spec.dtype for spec in graph.inputs] == ["float16", "bool"]
    x = np.random.default_rng(6).normal(size=(2, 5, 16)).astype(np.float16)
    for flag in (True, False):
        feeds = {"x": x, "flag": np.array(flag)}
        with_halves = _run(graph, feeds)
        floats = _run(wide, feeds | {"x": x.astype(np.float32)})
        assert floats.dtype == np.float32
        assert 0 < np.abs(with_halves - floats).max() < 2e-2


def _run(graph: Graph, feeds: dict[str, np.ndarray]) -> np.ndarray:
    from fuselage.calibration.session import GraphSession

    with GraphSession(graph, threads=1) as session:
        return session.run(feeds)["y"]


def test_attention_in_float16_is_fused() -> None:
    done = run_passes(CANONICAL, attention(), threads=1)
    assert done.not_checked is None
    assert done.graph.op_counts["Attention"] == 1
    assert not [record for record in done.graph.history if record.rolled_back]


def test_the_fused_graph_differs_by_roundings_alone() -> None:
    graph = attention()
    done = run_passes(CANONICAL, graph, threads=1).graph
    samples = [answer.sample for answer in NumberCheck(graph, threads=1).expected]
    pairs = zip(answers_to(graph, samples), answers_to(done, samples), strict=True)
    largest = max(float(np.abs(a["y"] - b["y"]).max()) for a, b in pairs)
    assert EXACT < largest < 2e-2


@pytest.mark.parametrize(
    ("factor", "start"), [(1.001, "in float32, output 'y'"), (2.0, "output 'y'")]
)
def test_a_fault_among_roundings_is_caught(factor: float, start: str) -> None:
    changed = attention()
    scaled(changed.model, factor)
    reason = NumberCheck(attention(), threads=1)(changed, Planted())
    assert reason is not None
    assert reason.startswith(start)


def test_bisect_names_the_node_of_such_a_fault() -> None:
    culprit = bisect(attention(), (Planted(),), threads=1).culprit
    assert culprit is not None
    assert culprit.difference is not None
    assert culprit.difference.value == "s"
    assert culprit.sample is not None
    assert culprit.sample.feeds["x"].dtype == np.float16  # what the graph takes, not what ran


def test_float32_graphs_run_once() -> None:
    assert NumberCheck(widen_halves(attention()), threads=1).wide is None
