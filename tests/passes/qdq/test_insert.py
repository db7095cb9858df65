from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import GraphError, OpsetError, PassError
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.params import QuantParams, dequantize, quantize, weight_params

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'


def ops(model):
    return [node.op_type for node in model.graph]


def nodes(model):
    return {node.outputs[0].name: node for node in model.graph}


def x_feed(shape=(3, 7, 32)):
    return {"x": np.random.default_rng(5).normal(0, 2, shape).astype(np.float32)}


def test_quantises_every_linear_and_nothing_else(block, params):
    done = InsertQdq(params)(block)
    assert (done.rewrites, done.modified, done.refusals) == (4, True, ())
    assert ops(block).count("QuantizeLinear") == 3
    assert ops(block).count("DequantizeLinear") == 7
    assert lint_qdq(block) == ()


def test_one_pair_a_tensor_next_to_its_producer(block, params):
    InsertQdq(params)(block)
    assert ops(block)[:3] == ["LayerNormalization", "QuantizeLinear", "DequantizeLinear"]
    made = nodes(block)
    assert made["q"].inputs[0] is made["k"].inputs[0]


def test_residual_and_bias_keep_the_float_tensors(block, params):
    InsertQdq(params)(block)
    made = nodes(block)
    assert made["y"].inputs[1].name == "normed"
    assert [value.name for value in made["scores_in"].inputs] == ["q", "bq"]
    assert made["active"].inputs[0].name == "hidden"


def test_weights_are_int8_per_output_channel_and_float_ones_are_gone(block, params, block_weights):
    InsertQdq(params)(block)
    stored = block.graph.initializers
    assert not {"wq", "wk", "w1", "w2"} & set(stored)
    codes = stored["w1/int8"].const_value.numpy()
    scale = stored["w1/scale"].const_value.numpy()
    expected = weight_params(block_weights["w1"], 1)
    np.testing.assert_array_equal(scale, expected.scale)
    np.testing.assert_array_equal(codes, quantize(block_weights["w1"], expected))
    assert stored["w1/zero_point"].const_value.numpy().tolist() == [0] * 48
    assert nodes(block)["w1/dequantized"].attributes["axis"].as_int() == 1


def test_numbers_are_those_of_the_definition(parse, run):
    weight = np.random.default_rng(1).normal(size=(32, 20)).astype(np.float32)
    model = parse(
        HEAD + "g (float[b, s, 32] x) => (float[b, s, 20] y) { y = MatMul(x, w) }", {"w": weight}
    )
    params, feeds = QuantParams.symmetric(3.0), x_feed()
    InsertQdq({"x": params})(model)
    per_channel = weight_params(weight, 1)
    x = dequantize(quantize(feeds["x"], params), params)
    # Beyond the range ONNX saturates at -128, quantize at -127: clip the feed to compare the rest.
    x = np.where(feeds["x"] < -3.0, x - params.scale * (feeds["x"] < -127.5 * params.scale), x)
    expected = x @ dequantize(quantize(weight, per_channel), per_channel)
    np.testing.assert_allclose(run(model, feeds)[0], expected, rtol=0, atol=2e-4)


def test_block_stays_close_to_float(block, params, run):
    feeds = x_feed()
    (expected,) = run(block, feeds)
    InsertQdq(params)(block)
    (got,) = run(block, feeds)
    noise = np.square(expected - got).sum() / np.square(expected).sum()
    assert 0 < noise < 5e-3


@pytest.mark.parametrize("form", ["Gemm <transB = 1> (x, w)", "Gemm(x, w)"])
def test_gemm_layouts(parse, run, form):
    swapped = "transB" in form
    weight = np.random.default_rng(2).normal(size=(24, 32) if swapped else (32, 24))
    arrays = {"w": weight.astype(np.float32)}
    model = parse(HEAD + f"g (float[m, 32] x) => (float[m, 24] y) {{ y = {form} }}", arrays)
    feeds = x_feed((19, 32))
    (expected,) = run(model, feeds)
    InsertQdq({"x": QuantParams.symmetric(8.0)})(model)
    assert nodes(model)["w/dequantized"].attributes["axis"].as_int() == (0 if swapped else 1)
    (got,) = run(model, feeds)
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.6)
    assert lint_qdq(model) == ()


def test_transpose_of_a_weight_is_absorbed(parse, run):
    weight = np.random.default_rng(2).normal(size=(24, 32)).astype(np.float32)
    model = parse(
        HEAD + "g (float[b, s, 32] x) => (float[b, s, 24] y)"
        " { t = Transpose <perm = [1, 0]> (w) y = MatMul(x, t) }",
        {"w": weight},
    )
    feeds = x_feed()
    (expected,) = run(model, feeds)
    InsertQdq({"x": QuantParams.symmetric(9.0)})(model)
    assert "Transpose" not in ops(model)
    assert "w" not in model.graph.initializers
    np.testing.assert_allclose(run(model, feeds)[0], expected, rtol=0, atol=0.6)


def test_tied_embedding_keeps_its_float_table(parse, run):
    table = np.random.default_rng(4).normal(size=(40, 32)).astype(np.float32)
    model = parse(
        HEAD + "g (int64[b, s] ids) => (float[b, s, 40] y)"
        " { e = Gather(w, ids) t = Transpose <perm = [1, 0]> (w) y = MatMul(e, t) }",
        {"w": table},
    )
    InsertQdq({"e": QuantParams.symmetric(4.0)})(model)
    assert nodes(model)["e"].inputs[0].name == "w"
    assert model.graph.initializers["w/int8"].const_value.numpy().shape == (32, 40)
    ids = np.arange(6).reshape(2, 3)
    (got,) = run(model, {"ids": ids})
    np.testing.assert_allclose(got, table[ids] @ table.T, rtol=0, atol=0.6)


def test_output_that_is_also_an_activation_stays_float(block, params, run):
    block.graph.outputs.append(nodes(block)["active"].outputs[0])
    feeds = x_feed()
    InsertQdq(params)(block)
    assert block.graph.outputs[1].name == "active"
    assert len(np.unique(run(block, feeds)[1])) > 300


def test_second_run_changes_nothing(block, params):
    InsertQdq(params)(block)
    before = [str(node) for node in block.graph]
    again = InsertQdq(params)(block)
    assert (again.modified, again.rewrites) == (False, 0)
    assert [str(node) for node in block.graph] == before


def test_source_model_is_not_touched_by_a_rewritten_clone(block, params):
    before = [str(node) for node in block.graph]
    InsertQdq(params)(block.clone())
    assert [str(node) for node in block.graph] == before
    assert "wq" in block.graph.initializers


def test_names_never_clash(block, params, run):
    clean = block.clone()
    taken = ir.tensor(np.zeros(1, np.float32), name="normed/scale")
    block.graph.register_initializer(ir.Value(name="normed/scale", const_value=taken))
    nodes(block)["scores_in"].outputs[0].name = "w1/dequantized"
    InsertQdq(params)(clean)
    InsertQdq(params)(block)
    feeds = x_feed()
    np.testing.assert_array_equal(run(block, feeds)[0], run(clean, feeds)[0])
    assert {"normed/scale", "normed/scale_1"} <= set(block.graph.initializers)
    assert "w1/dequantized_1" in nodes(block)


def test_same_input_gives_the_same_graph(block, params):
    first, second = block.clone(), block.clone()
    InsertQdq(params)(first)
    InsertQdq(params)(second)
    assert list(map(str, first.graph)) == list(map(str, second.graph))


def test_half_precision_graph_gets_half_precision_scales(parse, run):
    weight = np.random.default_rng(1).normal(size=(32, 20)).astype(np.float16)
    model = parse(
        HEAD + "g (float16[b, s, 32] x) => (float16[b, s, 20] y) { y = MatMul(x, w) }",
        {"w": weight},
    )
    InsertQdq({"x": QuantParams.symmetric(9.0)})(model)
    stored = model.graph.initializers
    assert stored["x/scale"].dtype == stored["w/scale"].dtype == ir.DataType.FLOAT16
    assert lint_qdq(model) == ()
    feeds = {"x": x_feed()["x"].astype(np.float16)}
    expected = feeds["x"].astype(np.float32) @ weight.astype(np.float32)
    np.testing.assert_allclose(run(model, feeds)[0], expected, rtol=0, atol=0.8)


def test_missing_range_names_the_linear(block, params):
    del params["active"]
    with pytest.raises(PassError, match="node_down: no range for its input 'active'"):
        InsertQdq(params)(block)


def test_range_per_channel_is_refused(block, params):
    params["mixed"] = QuantParams.symmetric(np.ones(32), axis=2)
    with pytest.raises(PassError, match="node_hidden: its input 'mixed' has a scale per channel"):
        InsertQdq(params)(block)


def test_nan_weight_is_named(block, params):
    broken = block.graph.initializers["w2"].const_value.numpy().copy()
    broken[3, 3] = np.nan
    block.graph.initializers["w2"].const_value = ir.tensor(broken, name="w2")
    with pytest.raises(GraphError, match=r"node_down: weight 'w2': .*finite"):
        InsertQdq(params)(block)


def test_old_opset_is_refused(block, params):
    block.opset_imports[""] = 17
    with pytest.raises(OpsetError, match="opset 19"):
        InsertQdq(params).requires(block)


def test_the_build_cannot_go_on_without_it_and_numbers_may_change(params):
    assert InsertQdq.required is True
    assert InsertQdq(params).tolerance is None
    assert InsertQdq(params).spec.startswith("insert-qdq(policy=QuantPolicy(min_size=16")
