from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import CalibrationError, PassError
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.linears import has_bias, weight_of
from fuselage.passes.qdq.params import QuantParams
from fuselage.passes.qdq.sites import find_site
from fuselage.passes.qdq.smooth import SmoothActivations, smoothed_name
from fuselage.passes.qdq.transform import ChannelTransform

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'


def transform(channels, shift="channel", seed=0):
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, 1, channels)).astype(np.float32)
    offsets = {
        "channel": rng.normal(0, 1, channels),
        "uniform": np.full(channels, 0.75),
        "none": np.zeros(channels),
    }
    return ChannelTransform(scale, offsets[shift].astype(np.float32))


def arrays(**shapes):
    rng = np.random.default_rng(11)
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def ops(model):
    return [node.op_type for node in model.graph]


def nodes(model):
    return {node.outputs[0].name: node for node in model.graph}


def feed(channels=32):
    return {"x": np.random.default_rng(5).normal(0, 2, (3, 7, channels)).astype(np.float32)}


def check_same(model, run, transforms, feeds=None):
    feeds = feeds or feed()
    before = run(model, feeds)
    done = SmoothActivations(transforms)(model)
    assert done.rewrites == len(transforms)
    for expected, got in zip(before, run(model, feeds), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    assert SmoothActivations(transforms)(model).modified is False


def test_norm_takes_scale_and_shift_and_the_residual_gets_its_tensor_back(block, run):
    check_same(block, run, {"normed": transform(32)})
    made = nodes(block)
    readers = [usage.node.op_type for usage in made["normed/smoothed"].outputs[0].uses()]
    assert sorted(readers) == ["MatMul", "MatMul", "Mul"]
    assert {"wq", "wk"} <= set(block.graph.initializers)
    assert made["normed/smoothed"].op_type == "LayerNormalization"
    assert made["y"].inputs[1].name == "normed"
    # The residual costs one Mul, and one Add because down has no bias; k gets a bias.
    assert ops(block).count("Mul") == 2
    assert ops(block).count("Add") == 2 + 1 + 1


def test_offset_of_the_residual_goes_into_the_bias_it_is_added_to(parse, run):
    text = (
        "g (float[b, s, 32] x) => (float[b, s, 32] y) { n = LayerNormalization(x, gamma, beta)"
        " h = MatMul(n, w1) a = Gelu(h) d = MatMul(a, w2) e = Add(d, bias) y = Add(n, e) }"
    )
    constants = arrays(w1=(32, 48), w2=(48, 32), bias=(32,), gamma=(32,), beta=(32,))
    model = parse(HEAD + text, constants)
    check_same(model, run, {"n": transform(32), "a": transform(48, "uniform")})
    assert ops(model).count("Add") == 2 + 1 + 1  # h had no bias; the scalar in front of Q


def test_norm_that_only_linears_read_costs_nothing(parse, run):
    text = (
        "g (float[b, s, 32] x) => (float[b, s, 48] y) { n = LayerNormalization(x, gamma)"
        " h = MatMul(n, w) y = Add(bias, h) }"
    )
    model = parse(HEAD + text, arrays(w=(32, 48), gamma=(32,), bias=(48,)))
    check_same(model, run, {"n": transform(32)})
    assert ops(model) == ["LayerNormalization", "MatMul", "Add"]


def test_norm_that_is_a_graph_output_keeps_its_name_and_numbers(parse, run):
    text = (
        "g (float[b, s, 32] x) => (float[b, s, 48] y, float[b, s, 32] n)"
        " { n = LayerNormalization(x, gamma, beta) y = MatMul(n, w) }"
    )
    model = parse(HEAD + text, arrays(w=(32, 48), gamma=(32,), beta=(32,)))
    check_same(model, run, {"n": transform(32)})
    assert [value.name for value in model.graph.outputs] == ["y", "n"]


def test_rms_norm_takes_the_scale_alone(parse, run):
    text = (
        "g (float[b, s, 32] x) => (float[b, s, 48] y)"
        " { n = RMSNormalization(x, gamma) y = MatMul(n, w) }"
    )
    model = parse(HEAD + text, arrays(w=(32, 48), gamma=(32,)))
    with pytest.raises(
        PassError, match="'n': the norm in front of it can be scaled, but not shifted"
    ):
        SmoothActivations({"n": transform(32)})(model.clone())
    check_same(model, run, {"n": transform(32, "none")})
    assert ops(model) == ["RMSNormalization", "MatMul"]


ATTENTION = (
    "g (float[b, s, 32] x) => (float[b, s, 48] y) { q = MatMul(x, wq) k = MatMul(x, wk)"
    " v0 = MatMul(x, wv) v = Add(v0, bv) a = Attention <q_num_heads = 4, kv_num_heads = %d>"
    " (q, k, v) y = MatMul(a, w) }"
)


@pytest.mark.parametrize("heads", [4, 2, 1])
def test_attention_takes_the_scale_into_the_value_projection(parse, run, heads):
    width = 8 * heads
    shapes = {"wq": (32, 32), "wk": (32, width), "wv": (32, width), "bv": (width,), "w": (32, 48)}
    model = parse(HEAD + ATTENTION % heads, arrays(**shapes))
    change = transform(32, "none")
    shared = np.broadcast_to(change.scale[:width].reshape(heads, 1, 8), (heads, 4 // heads, 8))
    change = ChannelTransform(np.ascontiguousarray(shared.reshape(-1)), change.shift)
    before = ops(model)
    check_same(model, run, {"a": change})
    assert ops(model) == before


def test_heads_that_share_values_need_equal_scales(parse):
    shapes = {"wq": (32, 32), "wk": (32, 16), "wv": (32, 16), "bv": (16,), "w": (32, 48)}
    model = parse(HEAD + ATTENTION % 2, arrays(**shapes))
    with pytest.raises(PassError, match="'a': heads that share values need equal scales"):
        SmoothActivations({"a": transform(32, "none")})(model)


@pytest.mark.parametrize(
    ("text", "shift", "added"),
    [
        ("h = MatMul(x, w1) a = Relu(h)", "none", []),
        ("h = MatMul(x, w1) u = MatMul(x, w3) s = Sigmoid(u) a = Mul(s, h)", "none", []),
        ("h = MatMul(x, w1) a = Add(h, b1)", "channel", []),
        ("h = MatMul(x, w1) a = Gelu(h)", "uniform", ["Mul", "Add"]),
        ("h = MatMul(x, w1) a = Gelu(h)", "none", ["Mul"]),
    ],
)
def test_what_stands_in_front_takes_it_where_it_can(parse, run, text, shift, added):
    shapes = {"w1": (32, 48), "w3": (32, 48), "b1": (48,), "w": (48, 32), "b": (32,)}
    model = parse(
        HEAD + f"g (float[m, s, 32] x) => (float[m, s, 32] y) {{ {text} h2 = MatMul(a, w)"
        " y = Add(h2, b) }",
        arrays(**shapes),
    )
    before = ops(model)
    check_same(model, run, {"a": transform(48, shift)})
    assert sorted(ops(model)) == sorted(before + added)


def test_a_linear_in_front_may_have_been_shifted_itself(parse, run):
    model = parse(
        HEAD + "g (float[m, s, 32] x) => (float[m, s, 24] y)"
        " { a = Gelu(x) h = MatMul(a, w1) y = MatMul(h, w) }",
        arrays(w1=(32, 48), w=(48, 24)),
    )
    check_same(model, run, {"a": transform(32, "uniform"), "h": transform(48, "channel")})
    assert ops(model) == ["Gelu", "Mul", "Add", "MatMul", "Add", "MatMul", "Add"]


@pytest.mark.parametrize("form", ["Gemm <transB = 1, alpha = 0.5> (a, w, c)", "Gemm(a, w)"])
def test_gemm_takes_the_bias(parse, run, form):
    turned = "transB" in form
    shapes = {"w": (24, 32) if turned else (32, 24), "c": (24,)}
    model = parse(
        HEAD + f"g (float[m, 32] x) => (float[m, 24] y) {{ a = Gelu(x) y = {form} }}",
        arrays(**shapes),
    )
    check_same(model, run, {"a": transform(32, "uniform")}, {"x": feed()["x"][0]})
    assert ops(model) == ["Gelu", "Mul", "Add", "Gemm"]


def test_reader_that_is_not_planned_keeps_the_linear_in_front(parse):
    model = parse(
        HEAD + "g (float[m, s, 32] x) => (float[m, s, 48] a, float[m, s, 32] y)"
        " { h = MatMul(x, w1) a = Relu(h) y = MatMul(a, w) }",
        arrays(w1=(32, 48), w=(48, 32)),
    )
    made = nodes(model)
    assert find_site(made["a"].outputs[0], [made["y"]]).name == "explicit"


def test_shared_weight_of_another_node_is_left_alone(parse, run):
    model = parse(
        HEAD + "g (float[m, s, 32] x) => (float[m, s, 32] y, float[m, s, 32] z)"
        " { a = Gelu(x) y = MatMul(a, w) z = MatMul(x, w) }",
        arrays(w=(32, 32)),
    )
    check_same(model, run, {"a": transform(32, "none")})


def test_rounded_weights_do_not_move_the_mean(parse, run):
    """The answer at the mean of x is that of the float graph up to the rounding of x itself."""
    constants = arrays(w=(32, 24))
    model = parse(
        HEAD + "g (float[m, s, 32] x) => (float[m, s, 24] y) { a = Relu(x) y = MatMul(a, w) }",
        constants,
    )
    step = np.float32(0.1)
    params, mean = QuantParams.symmetric(12.7), step * np.arange(32, dtype=np.float32)
    change = ChannelTransform(np.ones(32, np.float32), np.full(32, 90, np.float32) * step)
    SmoothActivations({"a": change})(model)
    plain = model.clone()
    ranges = {smoothed_name("a"): params}
    InsertQdq(ranges, {smoothed_name("a"): mean - change.shift})(model)
    InsertQdq(ranges)(plain)
    feeds = {"x": mean.reshape(1, 1, -1)}
    wanted = mean @ constants["w"]
    assert np.abs(run(model, feeds)[0] - wanted).max() < 1e-4
    assert np.abs(run(plain, feeds)[0] - wanted).max() > 1e-2


def test_wrong_number_of_channels_is_refused(block):
    with pytest.raises(PassError, match="'normed': expected a transform of 32 channels, got 8"):
        SmoothActivations({"normed": transform(8)})(block)


def test_shift_of_each_channel_is_an_add_of_a_vector_where_nothing_takes_it(block, run):
    check_same(block, run, {"active": transform(48)})
    assert nodes(block)["active/smoothed"].inputs[1].shape.numpy() == (48,)


@pytest.mark.parametrize(
    ("scale", "shift", "reason"),
    [
        (np.ones(3), np.zeros(3), "float64"),
        (np.ones(3, np.float32), np.zeros(2, np.float32), "for each channel"),
        (np.array([1, 0], np.float32), np.zeros(2, np.float32), "positive finite scales"),
        (np.ones(2, np.float32), np.array([0, np.nan], np.float32), "finite shifts"),
    ],
)
def test_transform_checks_its_values(scale, shift, reason):
    with pytest.raises(CalibrationError, match=reason):
        ChannelTransform(scale, shift)


def test_weight_behind_a_transpose_is_read_as_k_by_n(parse, run):
    model = parse(
        HEAD + "g (float[b, s, 32] x) => (float[b, s, 24] y)"
        " { a = Gelu(x) t = Transpose <perm = [1, 0]> (w) y = MatMul(a, t) }",
        arrays(w=(24, 32)),
    )
    assert weight_of(nodes(model)["y"]).shape == (32, 24)
    check_same(model, run, {"a": transform(32, "none")})
    assert "Transpose" not in ops(model)
    assert isinstance(model, ir.Model)


@pytest.mark.parametrize(
    ("body", "biased"),
    [
        ("y = MatMul(x, w)", False),
        ("p = MatMul(x, w) y = Add(p, b)", True),
        ("p = MatMul(x, w) y = Add(b, p)", True),
        ("p = MatMul(x, w) y = Add(p, x)", False),
        ("y = Gemm(x, w, b)", True),
        ("y = Gemm(x, w)", False),
    ],
)
def test_a_bias_is_found_in_every_form(parse, body, biased):
    model = parse(
        HEAD + f"g (float[m, 32] x) => (float[m, 32] y) {{ {body} }}", arrays(w=(32, 32), b=(32,))
    )
    gemm = next(node for node in model.graph if node.op_type in ("MatMul", "Gemm"))
    assert has_bias(gemm) == biased
