"""The check that every rewritten graph goes through, against planted faults."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.check_pass import NumberCheck
from fuselage.graph.model import Graph
from fuselage.passes.base import EXACT, Pass, PassResult, result
from fuselage.passes.lowering.convert_precision import ConvertPrecision
from fuselage.passes.normalize.infer_shapes import InferShapes

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
block (int64[batch, sequence] ids, int64[batch, sequence] mask) => (float[batch, 8] pooled,
    float[batch, sequence, 8] hidden)
{
    x = Gather(words, ids)
    h = MatMul(x, w)
    s = Mul(h, scale)
    hidden = Add(s, x)
    m = Cast<to = 1>(mask)
    m3 = Unsqueeze(m, last)
    kept = Mul(hidden, m3)
    total = ReduceSum<keepdims = 0>(kept, middle)
    count = ReduceSum<keepdims = 1>(m, middle)
    pooled = Div(total, count)
}"""
GATHER, MATMUL, SCALE, RESIDUAL, CAST, _, KEEP = range(7)


def make() -> Graph:
    random = np.random.default_rng(3)
    weights = {
        "words": random.normal(0, 1, (30, 8)).astype(np.float32),
        "w": random.normal(0, 1, (8, 8)).astype(np.float32),
        "scale": np.float32(0.5),
        "last": np.array([2]),
        "middle": np.array([1]),
    }
    return Graph(
        ir.from_onnx_text(TEXT, [ir.tensor(array, name=name) for name, array in weights.items()])
    )


@dataclass(frozen=True)
class Step(Pass):
    """A pass with a tolerance; the graphs are made by hand."""

    name = "step"
    allowed: float = EXACT

    @property
    def tolerance(self) -> float:
        return self.allowed

    def call(self, model: ir.Model) -> PassResult:
        return result(model, 0)


@pytest.fixture
def graph() -> Graph:
    return make()


@pytest.fixture
def check(graph: Graph) -> NumberCheck:
    return NumberCheck(graph, threads=1)


def scaled(factor: float) -> Graph:
    """The graph with its weights multiplied."""
    changed = make()
    value = changed.model.graph.initializers["w"]
    assert value.const_value is not None
    value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name="w")
    return changed


def with_scale(scale: float) -> Graph:
    changed = make()
    value = changed.model.graph.initializers["scale"]
    value.const_value = ir.tensor(np.float32(scale), name="scale")
    return changed


def test_the_same_graph_and_reordered_sums_pass(graph: Graph, check: NumberCheck) -> None:
    assert check(graph, Step()) is None
    swapped = make()
    residual = swapped.model.graph[RESIDUAL]
    left, right = residual.inputs
    residual.replace_input_with(0, right)
    residual.replace_input_with(1, left)
    assert check(swapped, Step()) is None


def test_a_wrong_scale_is_caught(check: NumberCheck) -> None:
    reason = check(with_scale(0.5001), Step())
    assert reason is not None
    assert reason.startswith("output 'pooled' at ids [3, 7]: relative error ")
    assert reason.endswith(" exceeds 1e-05")


def test_a_swapped_residual_is_caught(check: NumberCheck) -> None:
    changed = make()
    nodes = changed.model.graph
    nodes[RESIDUAL].replace_input_with(1, nodes[MATMUL].outputs[0])
    assert "relative error" in (check(changed, Step()) or "")


def test_lost_padding_is_caught(check: NumberCheck) -> None:
    changed = make()
    nodes = changed.model.graph
    nodes[KEEP].replace_input_with(1, nodes[KEEP].inputs[0])
    assert "output 'pooled'" in (check(changed, Step()) or "")


def test_nan_is_caught_whatever_the_tolerance(check: NumberCheck) -> None:
    assert (check(with_scale(np.nan), Step()) or "").endswith("relative error nan exceeds 1e-05")
    assert "relative error nan" in (check(with_scale(np.nan), Step(allowed=0.5)) or "")


def test_a_graph_that_does_not_run_is_a_reason(check: NumberCheck) -> None:
    changed = make()
    value = changed.model.graph.initializers["w"]
    value.const_value = ir.tensor(np.ones((5, 8), np.float32), name="w")
    reason = check(changed, Step())
    assert reason is not None
    assert reason.startswith("the rewritten graph does not run: ONNX Runtime ")


def test_other_outputs_are_a_reason(check: NumberCheck) -> None:
    renamed, shorter, reordered = make(), make(), make()
    renamed.model.graph.outputs[1].name = "states"
    shorter.model.graph.outputs.pop()
    outputs = reordered.model.graph.outputs
    outputs.reverse()
    for changed, got in (
        (renamed, ["pooled", "states"]),
        (shorter, ["pooled"]),
        (reordered, ["hidden", "pooled"]),
    ):
        reason = check(changed, Step())
        assert reason == f"expected the outputs ['pooled', 'hidden'], got {got}"


@pytest.mark.parametrize("tolerance", [EXACT, 0.1])
def test_other_dtypes_are_a_reason(check: NumberCheck, tolerance: float) -> None:
    changed = make()
    nodes = changed.model.graph
    pooled = changed.model.graph.outputs[0]
    cast = ir.node("Cast", [pooled], {"to": int(ir.DataType.DOUBLE)})
    cast.outputs[0].name, pooled.name = "pooled", "narrow"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.DOUBLE), pooled.shape
    nodes.append(cast)
    nodes.outputs[0] = cast.outputs[0]
    reason = check(changed, Step(allowed=tolerance))
    assert reason is not None
    assert reason.endswith("expected float32[3, 8], got float64[3, 8]")


def test_errors_of_exact_passes_do_not_add_up(check: NumberCheck) -> None:
    assert check(scaled(1 + 8e-6), Step()) is None
    assert check(scaled(1 + 16e-6), Step()) is not None


def test_a_precision_becomes_the_reference_of_what_follows(check: NumberCheck) -> None:
    half, more = scaled(1.01), scaled(1.02)
    assert check(half, Step(allowed=0.02)) is None
    assert check(half, Step()) is None
    assert check(more, Step()) is not None


def test_a_precision_that_was_rejected_does_not(check: NumberCheck, graph: Graph) -> None:
    assert check(scaled(1.5), Step(allowed=0.02)) is not None
    assert check(graph, Step()) is None


def test_a_quantised_graph_is_judged_by_its_distance_from_the_float_graph() -> None:
    """3 % noise of Q/DQ: another 3 % in another direction is fine, 8 % is not."""
    noisy = NumberCheck(scaled(1.03), unquantized=make(), threads=1)
    assert noisy(scaled(0.97), Step(allowed=1e-4)) is None
    plain = NumberCheck(scaled(1.03), threads=1)
    assert plain(scaled(0.97), Step(allowed=1e-4)) is not None
    noisy = NumberCheck(scaled(1.03), unquantized=make(), threads=1)
    reason = noisy(scaled(0.92), Step(allowed=1e-4))
    assert reason is not None
    noise, limit = (float(word) for word in reason.removeprefix("noise ").split(" exceeds "))
    assert noise > limit > 0.01


def test_bfloat16_graphs_are_checked(graph: Graph, check: NumberCheck) -> None:
    low = make()
    InferShapes()(low.model)
    step = ConvertPrecision("bfloat16")
    step(low.model)
    value = low.model.graph.initializers["w.bf16"]
    assert value.const_value is not None
    weight = value.const_value.numpy()
    assert weight.dtype == ml_dtypes.bfloat16
    assert check(low, step) is None
    value.const_value = ir.tensor((weight.astype(np.float32) * 1.2).astype(weight.dtype))
    assert "relative error" in (NumberCheck(graph, threads=1)(low, step) or "")
