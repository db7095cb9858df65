from __future__ import annotations

import numpy as np
import pytest

from fuselage.passes.qdq.fuse_integer_matmul import FuseIntegerMatMul
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lower_uint8 import LowerActivationsUint8

FUSED = "MatMulIntegerToFloat"


@pytest.fixture
def lowered(block, params):
    InsertQdq(params)(block)
    LowerActivationsUint8()(block)
    return block


def ops(model):
    return [node.op_type for node in model.graph]


def x_feed():
    return {"x": np.random.default_rng(5).normal(0, 2, (3, 7, 32)).astype(np.float32)}


def test_every_linear_becomes_one_operator_with_its_bias(lowered, run):
    (before,) = run(lowered, x_feed())
    done = FuseIntegerMatMul()(lowered)
    assert done.rewrites == 4
    assert ops(lowered).count(FUSED) == 4
    assert "MatMul" not in ops(lowered)
    assert "DequantizeLinear" not in ops(lowered)
    assert ops(lowered).count("Add") == 1  # the residual; the bias of q is inside
    (after,) = run(lowered, x_feed())
    assert np.linalg.norm(after - before) < 2e-3 * np.linalg.norm(before)
    assert FuseIntegerMatMul()(lowered).modified is False


def test_node_names_stay(lowered):
    before = {node.name for node in lowered.graph if node.op_type == "MatMul"}
    FuseIntegerMatMul()(lowered)
    assert {node.name for node in lowered.graph if node.op_type == FUSED} == before


TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[b, s, 32] x) => (float[b, s, 24] y) { h = MatMul(x, w) %s }
"""


def graph(parse, params, tail, **constants):
    rng = np.random.default_rng(1)
    arrays = {"w": rng.normal(size=(32, 24)).astype(np.float32)} | constants
    model = parse(TEXT % tail, arrays)
    InsertQdq({"x": params["normed"]})(model)
    return model


BIAS = np.random.default_rng(2).normal(0, 3, 24).astype(np.float32)


@pytest.mark.parametrize(
    ("tail", "constants", "left"),
    [
        ("y = Add(h, c)", {"c": BIAS}, []),
        ("y = Add(c, h)", {"c": BIAS}, []),
        ("a = Add(h, c) y = Gelu(a)", {"c": BIAS}, ["Gelu"]),
        ("y = Add(h, c)", {"c": BIAS[:1]}, ["Add"]),
        ("y = Add(h, c)", {"c": BIAS.reshape(1, 24)}, ["Add"]),
        ("y = Add(h, h)", {}, ["Add"]),
        ("y = Identity(h)", {}, ["Identity"]),
    ],
)
def test_bias_goes_in_when_it_is_a_vector_of_the_channels(
    parse, run, params, tail, constants, left
):
    model = graph(parse, params, tail, **constants)
    LowerActivationsUint8()(model)
    (before,) = run(model, x_feed())
    FuseIntegerMatMul()(model)
    assert ops(model) == ["QuantizeLinear", FUSED, *left]
    np.testing.assert_allclose(run(model, x_feed())[0], before, rtol=0, atol=2e-4)


def test_signed_activations_are_left_to_onnx_runtime(parse, params):
    model = graph(parse, params, "y = Identity(h)")
    assert FuseIntegerMatMul()(model).modified is False


def test_float_graph_is_left_alone(block):
    assert FuseIntegerMatMul()(block).modified is False
    assert "com.microsoft" not in block.opset_imports
