from __future__ import annotations

import json

import numpy as np
import pytest

from fuselage.errors import PassError
from fuselage.passes.qdq.policy import QuantPlan, QuantPolicy

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'


def matrix(*shape: int, dtype: str = "float32"):
    return np.ones(shape, dtype)


def reasons(model, policy=None):
    plan = (policy or QuantPolicy()).plan(model)
    return {refusal.node: refusal.reason for refusal in plan.refusals}


def find_linears(model, policy=None):
    return (policy or QuantPolicy()).plan(model).linears


def test_linears_of_a_block_in_graph_order(block):
    plan = QuantPolicy().plan(block)
    assert [linear.weight for linear in plan.linears] == ["wq", "wk", "w1", "w2"]
    assert plan.activations == ("normed", "mixed", "active")
    assert plan.refusals == ()
    third = plan.linears[2]
    assert (third.node, third.depth, third.channels, third.axis) == ("node_hidden", 32, 48, 1)


def test_plan_survives_json(block):
    plan = QuantPolicy(keep_float=("node_down",)).plan(block)
    assert QuantPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_gemm_with_transposed_weight_has_its_channels_on_axis_0(parse):
    model = parse(
        HEAD + "g (float[rows, 32] x) => (float[rows, 24] y) { y = Gemm <transB = 1> (x, w, b) }",
        {"w": matrix(24, 32), "b": matrix(24)},
    )
    (linear,) = find_linears(model, QuantPolicy(min_size=16))
    assert (linear.axis, linear.depth, linear.channels, linear.transposed) == (0, 32, 24, False)


def test_constant_behind_a_transpose_is_found(parse):
    model = parse(
        HEAD + "g (float[b, s, 32] x) => (float[b, s, 24] y)"
        " { t = Transpose <perm = [1, 0]> (w) y = MatMul(x, t) }",
        {"w": matrix(24, 32)},
    )
    (linear,) = find_linears(model)
    assert (linear.axis, linear.depth, linear.channels, linear.transposed) == (1, 32, 24, True)


@pytest.mark.parametrize(
    ("x", "y", "body", "weight", "reason"),
    [
        ("b, s, 32", "b, s, 9", "y = MatMul(x, w)", (32, 9), "N = 9: smaller than 16"),
        ("b, s, 8", "b, s, 32", "y = MatMul(x, w)", (8, 32), "K = 8"),
        ("4, 3, 32", "4, 3, 32", "y = MatMul(x, w)", (32, 32), "M = 12: smaller than 16"),
        ("b, 32", "b, 32", "y = Gemm(x, w)", (32, 32), "one row a text"),
        ("b, 1, 32", "b, 1, 32", "y = MatMul(x, w)", (32, 32), "one row a text"),
        ("32, m", "m, 32", "y = Gemm <transA = 1> (x, w)", (32, 32), "transA"),
        ("b, 32, s", "b, 24, s", "y = MatMul(w, x)", (24, 32), "constant is on the left"),
        ("b, s, 32", "b, s, s", "t = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, t)", (1,),
         "attention core"),
        ("b, s, 32", "b, s, 32", "y = MatMul(x, w)", (1, 32, 32), "rank 3"),
    ],
)  # fmt: skip
def test_exclusions_have_reasons(parse, x, y, body, weight, reason):
    text = f"g (float[{x}] x, int64[b, s] ids) => (float[{y}] y) {{ {body} }}"
    model = parse(HEAD + text, {"w": matrix(*weight)})
    assert find_linears(model) == ()
    (given,) = reasons(model).values()
    assert reason in given


def test_packed_rows_are_not_a_gemv(parse):
    text = "g (float[tokens, 32] x) => (float[tokens, 32] y) { z = Relu(x) y = MatMul(z, w) }"
    model = parse(HEAD + text.replace("x)", "x, int64[tokens] ids)", 1), {"w": matrix(32, 32)})
    model.graph.inputs.pop(0)
    assert len(find_linears(model)) == 1


def test_integer_and_overridable_weights_stay(parse):
    text = "g (float[b, s, 32] x) => (float[b, s, 32] y) { y = MatMul(x, w) }"
    model = parse(HEAD + text, {"w": matrix(32, 32)})
    model.graph.inputs.append(model.graph.initializers["w"])
    assert reasons(model) == {
        "node_y": "the weight is also a graph input, so a feed may replace it"
    }


def test_keep_float_by_node_or_tensor(block):
    policy = QuantPolicy(keep_float=("node_q", "down"))
    assert [linear.weight for linear in find_linears(block, policy)] == ["wk", "w1"]
    assert set(reasons(block, policy)) == {"node_q", "node_down"}


def test_keep_float_with_a_typo_is_an_error(block):
    with pytest.raises(PassError, match="keep_float names 'node_qq'"):
        QuantPolicy(keep_float=("node_qq",)).plan(block)
