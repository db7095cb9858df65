from __future__ import annotations

import numpy as np
import pytest

from fuselage.passes.qdq.fuse_weight_only_matmul import FuseWeightOnlyMatMul
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.params import QuantParams
from fuselage.passes.qdq.policy import QuantPolicy

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "w": rng.normal(size=(48, 24)).astype(np.float32),  # 48: a block and a half
        "b": rng.normal(size=24).astype(np.float32),
    }


def inserted(parse, body, arrays):
    model = parse(HEAD + f"g (float[b, s, 48] x) => (float[b, s, 24] y) {{ {body} }}", arrays)
    InsertQdq({}, policy=QuantPolicy(weight_only=True))(model)
    return model


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("y = MatMul(x, w)", ["MatMulNBits"]),
        ("m = MatMul(x, w) y = Add(m, b)", ["MatMulNBits"]),
        ("m = MatMul(x, w) y = Add(b, m)", ["MatMulNBits"]),
        ("m = MatMul(x, w) y = Relu(m)", ["MatMulNBits", "Relu"]),
    ],
)
def test_products_and_biases_become_one_operator_of_the_same_meaning(
    parse, run, arrays, body, left
):
    model = inserted(parse, body, arrays)
    x = np.random.default_rng(1).normal(size=(2, 5, 48)).astype(np.float32)
    (before,) = run(model, {"x": x})
    assert FuseWeightOnlyMatMul()(model).rewrites == 1
    assert ops(model) == left
    assert model.graph.outputs[0].name == "y"
    (after,) = run(model, {"x": x})
    assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)
    assert FuseWeightOnlyMatMul()(model).modified is False


def test_the_weights_are_those_of_the_graph_to_the_last_code(parse, run, arrays):
    """With activations that rounding leaves alone: whole numbers, 127 in each block."""
    model = inserted(parse, "y = MatMul(x, w)", arrays)
    x = np.random.default_rng(1).integers(-127, 128, (1, 4, 48)).astype(np.float32)
    x[..., 0] = x[..., 32] = 127
    (before,) = run(model, {"x": x})
    FuseWeightOnlyMatMul()(model)
    np.testing.assert_allclose(run(model, {"x": x})[0], before, rtol=1e-4, atol=1e-2)


def test_integer_products_are_left_alone(parse, arrays):
    text = HEAD + "g (float[b, s, 48] x) => (float[b, s, 24] y) { y = MatMul(x, w) }"
    model = parse(text, arrays)
    InsertQdq({"x": QuantParams.symmetric(4.0)})(model)
    assert FuseWeightOnlyMatMul()(model).modified is False


def test_float_products_are_left_alone(parse, arrays):
    text = HEAD + "g (float[b, s, 48] x) => (float[b, s, 24] y) { y = MatMul(x, w) }"
    assert FuseWeightOnlyMatMul()(parse(text, arrays)).modified is False
