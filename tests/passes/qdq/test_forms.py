"""Weights alone, and FP8: what the graphs compute, against numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import GraphError, PassError
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.params import FP8, QuantParams
from fuselage.passes.qdq.policy import QuantPolicy

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
ONE = HEAD + "g (float[b, s, 32] x) => (float[b, s, 24] y) { y = MatMul(x, w) }"
WEIGHT_ONLY, IN_FP8 = QuantPolicy(weight_only=True), QuantPolicy(scheme=FP8)


def e4m3(x):
    """Rounded to the nearest E4M3 number, within its range."""
    return np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


@pytest.fixture
def weight():
    return np.random.default_rng(1).normal(size=(32, 24)).astype(np.float32)


@pytest.fixture
def x():
    values = np.random.default_rng(2).normal(size=(3, 17, 32)).astype(np.float32)
    values[1, 2, 3], values[0, 0, 0] = 40.0, -90.0
    return values


def test_weights_alone_leave_activations_as_they_are(parse, run, weight, x):
    model = parse(ONE, {"w": weight})
    done = InsertQdq({}, policy=WEIGHT_ONLY)(model)
    assert (done.rewrites, done.refusals) == (1, ())
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul"]
    scale = np.abs(weight).max(axis=0) / np.float32(127)
    expected = x @ (np.rint(weight / scale) * scale)
    np.testing.assert_allclose(run(model, {"x": x})[0], expected, rtol=1e-5, atol=1e-4)
    assert InsertQdq({}, policy=WEIGHT_ONLY)(model).modified is False


def test_lint_takes_weights_alone_only_where_they_are_meant(parse, weight):
    model = parse(ONE, {"w": weight})
    InsertQdq({}, policy=WEIGHT_ONLY)(model)
    assert lint_qdq(model, weight_only=True) == ()
    assert [found.rule for found in lint_qdq(model)] == ["both-operands"]


def test_lint_still_looks_at_the_axis_of_weights_alone(parse, weight):
    model = parse(ONE, {"w": weight})
    InsertQdq({}, policy=WEIGHT_ONLY)(model)
    model.graph[0].attributes["axis"] = ir.AttrInt64("axis", 0)
    (found,) = lint_qdq(model, weight_only=True)
    assert found.rule == "output-channel-scales"


def test_fp8_computes_what_e4m3_numbers_give(parse, run, weight, x):
    model = parse(ONE, {"w": weight})
    InsertQdq({"x": QuantParams.symmetric(60.0, scheme=FP8)}, policy=IN_FP8)(model)
    codes = model.graph.initializers["w/fp8"]
    assert codes.dtype.name == "FLOAT8E4M3FN"
    assert float(np.abs(codes.const_value.numpy().astype(np.float32)).max()) == 448
    step, along = np.float32(60.0 / 448), np.abs(weight).max(axis=0) / np.float32(448)
    expected = (e4m3(x / step) * step) @ (e4m3(weight / along) * along)
    np.testing.assert_allclose(run(model, {"x": x})[0], expected, rtol=1e-5, atol=1e-3)
    clipped = expected[0, 0] - (x[0, 0] @ (e4m3(weight / along) * along))
    assert np.abs(clipped).max() > 1  # -90 became -60, not NaN
    assert lint_qdq(model) == ()
    assert InsertQdq({}, policy=IN_FP8)(model).modified is False


def test_fp8_zero_points_have_its_type(parse, weight):
    model = parse(ONE, {"w": weight})
    InsertQdq({"x": QuantParams.symmetric(4.0, scheme=FP8)}, policy=IN_FP8)(model)
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert node.inputs[2].dtype.name == "FLOAT8E4M3FN"
    quantize = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    assert quantize.outputs[0].dtype.name == "FLOAT8E4M3FN"


def test_fp8_graph_takes_no_int8_ranges(parse, weight):
    model = parse(ONE, {"w": weight})
    with pytest.raises(PassError, match="'x' is for int8, the policy asks for fp8"):
        InsertQdq({"x": QuantParams.symmetric(4.0)}, policy=IN_FP8)(model)


def test_nan_in_a_weight_is_refused(parse, weight):
    weight[3, 4] = np.nan
    with pytest.raises(GraphError, match=r"node_y: weight 'w': .*finite"):
        InsertQdq({}, policy=WEIGHT_ONLY)(parse(ONE, {"w": weight}))


@pytest.mark.parametrize("policy", [WEIGHT_ONLY, IN_FP8], ids=["weight-only", "fp8"])
def test_the_same_edges_as_in_int8(block, policy):
    assert policy.plan(block).linears == QuantPolicy().plan(block).linears
