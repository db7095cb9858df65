"""The body becomes 16-bit; inputs, outputs, reductions and the pooling tail stay float32."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from fuselage.errors import PassError
from fuselage.graph.model import Graph
from fuselage.passes.lowering.convert_precision import ConvertPrecision
from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.pipeline import PassPipeline

# Two products, a mask with a fill, mean pooling and an L2 norm: the shape of a sentence encoder.
ENCODER = """encoder (int64[b, s] ids, int64[b, s] mask) => (float[b, 8] pooled, float[b, s, 8] h)
{
    x = Gather(words, ids)
    up = MatMul(x, w1)
    up_b = Add(up, bias)
    g = Gelu(up_b)
    shown = Cast<to = 9>(mask)
    row = Unsqueeze(shown, axes12)
    filled = Where(row, zero, fill)
    gt = Transpose<perm = [0, 2, 1]>(g)
    raw = MatMul(g, gt)
    row3 = Squeeze(filled, axis1)
    scores = Add(raw, row3)
    p = Softmax(scores)
    mixed = MatMul(p, g)
    normed = LayerNormalization(mixed, gamma, beta)
    h = MatMul(normed, w2)
    m = Cast<to = 1>(mask)
    m3 = Unsqueeze(m, axis2)
    kept = Mul(h, m3)
    total = ReduceSum<keepdims = 0>(kept, axis1)
    count = ReduceSum<keepdims = 1>(m, axis1)
    floor = Clip(count, tiny)
    mean = Div(total, floor)
    length = ReduceL2<keepdims = 1>(mean, axis1)
    pooled = Div(mean, length)
}"""
TAIL = ("kept", "total", "count", "floor", "mean", "length", "pooled")


@pytest.fixture
def encoder(parse: Any, rng: np.random.Generator) -> Any:
    def make(**changed: Any) -> ir.Model:
        def normal(*shape: int) -> Any:
            return rng.normal(0, 0.4, shape).astype(np.float32)

        constants = {
            "words": normal(20, 8),
            "w1": normal(8, 8),
            "w2": normal(8, 8),
            "bias": normal(8),
            "gamma": 1 + normal(8),
            "beta": normal(8),
            "axes12": np.array([1, 2]),
            "axis1": np.array([1]),
            "axis2": np.array([2]),
            "zero": np.float32(0),
            "fill": np.finfo(np.float32).min,
            "tiny": np.float32(1e-9),
        } | changed
        model: ir.Model = parse(ENCODER, **constants)
        InferShapes()(model)
        return model

    return make


def feeds(batch: int, s: int) -> dict[str, Any]:
    random = np.random.default_rng(batch * 10 + s)
    lengths = s - np.arange(batch) % s
    return {
        "ids": random.integers(0, 20, (batch, s)),
        "mask": (np.arange(s) < lengths[:, None]).astype(np.int64),
    }


def dtypes(model: ir.Model) -> dict[str, ir.DataType | None]:
    values = (value for node in model.graph for value in node.outputs)
    return {value.name or "": value.dtype for value in values}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_body_is_converted_and_the_tail_is_not(encoder: Any, apply: Any, dtype: Any) -> None:
    model = encoder()
    low = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}[dtype]
    after, outcome = apply(ConvertPrecision(dtype), model)
    assert outcome.rewrites > 0
    assert [(v.name, v.dtype) for v in after.graph.outputs] == [
        ("pooled", ir.DataType.FLOAT),
        ("h", ir.DataType.FLOAT),
    ]
    assert [v.dtype for v in after.graph.inputs] == [ir.DataType.INT64] * 2
    got = dtypes(after)
    for name in ("x", "up", "g", "filled", "scores", "p", "mixed", "normed"):
        assert got[name] == low, name
    for name in TAIL:
        assert got[name] == ir.DataType.FLOAT, name
    for node in after.graph:
        if node.op_type == "MatMul":
            assert {value.dtype for value in node.inputs if value is not None} == {low}


def test_half_precision_answers_like_the_float_graph(
    encoder: Any, apply: Any, same_numbers: Any
) -> None:
    model = encoder()
    after, _ = apply(ConvertPrecision(), model)
    same_numbers(model, after, feeds(3, 7), feeds(1, 1), atol=5e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_given_graph_is_not_touched(encoder: Any, dtype: Any) -> None:
    graph = Graph(encoder())
    before, types = graph.digest(), dtypes(graph.model)
    low = PassPipeline((ConvertPrecision(dtype),)).run(graph)
    assert low.model is not graph.model
    assert graph.digest() == before
    assert dtypes(graph.model) == types


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_second_run_changes_nothing(encoder: Any, apply: Any, dtype: Any) -> None:
    once, _ = apply(ConvertPrecision(dtype), encoder())
    twice, outcome = apply(ConvertPrecision(dtype), once)
    assert (outcome.modified, outcome.rewrites) == (False, 0)
    assert [node.op_type for node in twice.graph] == [node.op_type for node in once.graph]


@pytest.mark.parametrize("fill", [-1e38, -np.inf, float(np.finfo(np.float32).min)])
def test_mask_fills_saturate_with_room_for_a_score(encoder: Any, apply: Any, fill: float) -> None:
    after, _ = apply(ConvertPrecision(), encoder(fill=np.float32(fill)))
    where = next(node for node in after.graph if node.op_type == "Where")
    value = where.inputs[2].const_value.numpy()
    assert value.dtype == np.float16
    assert -65504 < value < -50000
    assert np.isfinite(value - np.float16(1000))


def test_fills_within_range_keep_their_value(encoder: Any, apply: Any) -> None:
    after, _ = apply(ConvertPrecision(), encoder(fill=np.float32(-10000)))
    where = next(node for node in after.graph if node.op_type == "Where")
    assert where.inputs[2].const_value.numpy() == -10000


@pytest.mark.parametrize("value", [7e4, -7e4, np.inf])
def test_weights_beyond_half_precision_are_refused_by_name(encoder: Any, value: float) -> None:
    weight = np.zeros((8, 8), np.float32)
    weight[3, 5] = value
    with pytest.raises(
        PassError,
        match=r"weight 'w2' holds (70000|inf), beyond the largest f16 65504; "
        r"build with --precision bf16 or fp32",
    ):
        PassPipeline((ConvertPrecision(),)).run(Graph(encoder(w2=weight)))


def test_a_scalar_beyond_range_that_is_no_fill_is_refused(encoder: Any) -> None:
    with pytest.raises(PassError, match="weight 'fill' holds 70000"):
        PassPipeline((ConvertPrecision(),)).run(Graph(encoder(fill=np.float32(-70000))))


def test_bfloat16_takes_what_float16_cannot(encoder: Any, apply: Any) -> None:
    weight = np.full((8, 8), 7e4, np.float32)
    after, _ = apply(ConvertPrecision("bfloat16"), encoder(w2=weight))
    held = after.graph.initializers["w2.bf16"].const_value.numpy()
    assert held.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(held.astype(np.float32), 7e4, rtol=2**-8)


def test_large_weights_are_converted_when_they_are_read(encoder: Any, apply: Any) -> None:
    words = np.ones((4096, 8), np.float32)
    after, _ = apply(ConvertPrecision(), encoder(words=words))
    tensor = after.graph.initializers["words.f16"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    assert tensor.numpy().dtype == np.float16
    assert list(tensor.shape) == [4096, 8]


def test_float_inputs_keep_their_dtype(parse: Any, apply: Any, same_numbers: Any, rng: Any) -> None:
    model = parse(
        """plain (float[b, 4] x) => (float[b, 4] y, float[b, 4] z)
        { h = MatMul(x, w)
          y = Tanh(h)
          z = Add(y, x) }""",
        w=rng.normal(0, 1, (4, 4)).astype(np.float32),
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    assert after.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert [v.dtype for v in after.graph.outputs] == [ir.DataType.FLOAT] * 2
    casts = [n for n in after.graph if n.op_type == "Cast" and n.inputs[0].name == "x"]
    assert len(casts) == 1  # shared by both readers
    x = rng.normal(0, 1, (3, 4)).astype(np.float32)
    same_numbers(model, after, {"x": x}, atol=5e-3, rtol=1e-2)


def test_dtypes_in_attributes_are_converted(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse(
        """dtypes (float[b, 4] x, int64[b, 4] n) => (float[b, 4] y)
        { size = Shape(x)
          zeros = ConstantOfShape(size)
          ones = ConstantOfShape<value = float[1] {1.0}>(size)
          halves = Constant<value = float[1] {0.5}>()
          f = Cast<to = 1>(n)
          a = Add(x, zeros)
          b2 = Add(a, ones)
          c = Add(b2, halves)
          y = Mul(c, f) }""",
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    assert {dtypes(after)[name] for name in ("zeros", "f")} == {ir.DataType.FLOAT16}
    one = {"x": np.ones((3, 4), np.float32), "n": np.arange(12).reshape(3, 4)}
    same_numbers(model, after, one, atol=5e-3, rtol=1e-2)


def test_casts_to_other_dtypes_stay(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse(
        """casts (float[b, 4] x) => (bool[b, 4] y, int64[b, 4] z)
        { h = Neg(x)
          y = Cast<to = 9>(h)
          z = Cast<to = 7>(h) }"""
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    assert dtypes(after)["h"] == ir.DataType.FLOAT16
    same_numbers(model, after, {"x": np.eye(4, dtype=np.float32) * 3}, atol=0, rtol=0)


def test_a_graph_that_is_half_converted_is_finished(
    parse: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = parse(
        """mixed (float[b, 4] x) => (float[b, 4] y)
        { h = MatMul(x, w)
          low = Cast<to = 10>(h)
          n = Tanh(low)
          wide = Cast<to = 1>(n)
          y = MatMul(wide, w) }""",
        w=rng.normal(0, 0.5, (4, 4)).astype(np.float32),
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    for node in after.graph:
        if node.op_type == "MatMul":
            assert {value.dtype for value in node.inputs if value} == {ir.DataType.FLOAT16}
    one = {"x": rng.normal(0, 1, (3, 4)).astype(np.float32)}
    same_numbers(model, after, one, atol=5e-3, rtol=1e-2)


def test_reductions_in_front_of_a_product_are_islands(
    parse: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    """Only the mean of squares is float32; what leads to the next product is 16-bit again."""
    model = parse(
        """rms (float[b, 4] x) => (float[b, 4] y)
        { h = MatMul(x, w)
          sq = Mul(h, h)
          mean = ReduceMean(sq, last)
          eps = Add(mean, small)
          root = Sqrt(eps)
          n = Div(h, root)
          y = MatMul(n, w) }""",
        w=rng.normal(0, 0.5, (4, 4)).astype(np.float32),
        last=np.array([-1]),
        small=np.float32(1e-3),
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    got = dtypes(after)
    assert {got[name] for name in ("h", "eps", "root", "n")} == {ir.DataType.FLOAT16}
    assert {got[name] for name in ("sq", "mean")} == {ir.DataType.FLOAT}
    one = {"x": rng.normal(0, 1, (3, 4)).astype(np.float32)}
    same_numbers(model, after, one, atol=1e-2, rtol=1e-2)


TAILS = {
    "ReduceSum": "y = ReduceSum<keepdims = 1>(h, last)",
    "ReduceMean": "y = ReduceMean<keepdims = 1>(h, last)",
    "ReduceL1": "y = ReduceL1<keepdims = 1>(h, last)",
    "ReduceL2": "y = ReduceL2<keepdims = 1>(h, last)",
    "ReduceSumSquare": "y = ReduceSumSquare<keepdims = 1>(h, last)",
    "ReduceLogSumExp": "y = ReduceLogSumExp<keepdims = 1>(h, last)",
    "ReduceProd": "y = ReduceProd<keepdims = 1>(h, last)",
    "LpNormalization": "y = LpNormalization(h)",
    "CumSum": "y = CumSum(h, axis)",
    "Clip": "y = Clip(h, small)",
}


@pytest.mark.parametrize("name", TAILS)
def test_every_reduction_stays_float32(
    parse: Any, apply: Any, same_numbers: Any, rng: Any, name: str
) -> None:
    model = parse(
        f"tail (float[b, 4] x) => (float[b, n] y) {{ h = MatMul(x, w)\n {TAILS[name]} }}",
        w=rng.normal(0, 0.5, (4, 4)).astype(np.float32),
        last=np.array([-1]),
        axis=np.int64(1),
        small=np.float32(1e-12),
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    node = next(node for node in after.graph if node.op_type == name)
    assert node.inputs[0].dtype == node.outputs[0].dtype == ir.DataType.FLOAT
    assert node.outputs[0].is_graph_output()  # without a cast through 16 bits
    same_numbers(model, after, {"x": rng.normal(0, 1, (3, 4)).astype(np.float32)},
                 atol=1e-2, rtol=1e-2)  # fmt: skip


@pytest.mark.parametrize("value", [65504, -65504])
def test_the_largest_half_is_a_sound_weight(encoder: Any, apply: Any, value: float) -> None:
    weight = np.full((8, 8), value, np.float32)
    after, _ = apply(ConvertPrecision(), encoder(w2=weight))
    assert (after.graph.initializers["w2.f16"].const_value.numpy() == np.float16(value)).all()


def test_scales_that_are_computed_are_converted_too(
    parse: Any, apply: Any, same_numbers: Any
) -> None:
    model = parse(
        """dynamic (float[b, 4] x) => (float[b, 4] y)
        { half = Mul(one, factor)
          q = QuantizeLinear(x, half, zero)
          d = DequantizeLinear(q, half, zero)
          y = Neg(d) }""",
        one=np.float32(1),
        factor=np.float32(0.5),
        zero=np.int8(0),
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    x = np.array([[0.5, 1, -3, 7]], np.float32)
    same_numbers(model, after, {"x": x}, atol=0, rtol=0)


def test_the_dtype_of_a_generator_is_converted(parse: Any, apply: Any) -> None:
    model = parse(
        """eye (int64[b, 4] n, float[b, 4] x) => (float[b, 4] y)
        { e = EyeLike<dtype = 1>(n)
          y = Mul(x, e) }"""
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    eye = next(node for node in after.graph if node.op_type == "EyeLike")
    assert eye.attributes["dtype"].as_int() == ir.DataType.FLOAT16


def quantized(parse: Any, scale: float) -> ir.Model:
    model: ir.Model = parse(
        """qdq (float[b, 4] x) => (float[b, 4] y)
        { q = QuantizeLinear(x, scale, zero)
          d = DequantizeLinear<output_dtype = 1>(q, scale, zero)
          wd = DequantizeLinear<axis = 1>(wq, w_scale, w_zero)
          y = MatMul(d, wd) }""",
        scale=np.float32(scale),
        zero=np.int8(0),
        wq=np.eye(4, dtype=np.int8) * 100,
        w_scale=np.full(4, 0.01, np.float32),
        w_zero=np.zeros(4, np.int8),
    )
    InferShapes()(model)
    return model


def test_scales_are_converted(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = quantized(parse, 0.0078125)
    after, _ = apply(ConvertPrecision(), model)
    assert dtypes(after)["q"] == ir.DataType.INT8
    assert {dtypes(after)[name] for name in ("d", "wd")} == {ir.DataType.FLOAT16}
    x = np.linspace(-0.9, 0.9, 8, dtype=np.float32).reshape(2, 4)
    same_numbers(model, after, {"x": x}, atol=1e-2, rtol=1e-2)


def test_scales_that_underflow_are_refused(parse: Any) -> None:
    with pytest.raises(
        PassError, match=r"QuantizeLinear 'n_q': its scale underflows to 0 in f16; calibrate"
    ):
        PassPipeline((ConvertPrecision(),)).run(Graph(quantized(parse, 1e-9)))
    assert PassPipeline((ConvertPrecision("bfloat16"),)).run(Graph(quantized(parse, 1e-9)))


def test_names_that_are_taken_stay_unique(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse(
        "plain (float[b, 4] x) => (float[b, 4] y) { h = Add(x, w)\n y = Add(h, taken) }",
        w=np.ones(4, np.float32),
        taken=np.ones(4, np.float32),
    )
    value = model.graph.initializers["taken"]
    value.name = "w.f16"
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    same_numbers(model, after, {"x": np.ones((2, 4), np.float32)}, atol=1e-3, rtol=1e-3)


def test_an_older_opset_fails_the_build(encoder: Any) -> None:
    model = encoder()
    model.opset_imports[""] = 16
    with pytest.raises(PassError, match=r"pass convert-precision\(dtype='float16'\): .*opset 16"):
        PassPipeline((ConvertPrecision(),)).run(Graph(model))


@pytest.mark.parametrize("product", ["Mul", "MatMul"])
def test_angles_stay_float32(parse: Any, apply: Any, run: Any, product: str) -> None:
    """At position 4000 a float16 angle is off by up to 2 radians."""
    model = parse(
        f"""rotary (float[b, s, 4] x, int64[b, s] positions) => (float[b, s, 4] y)
        {{
            p = Cast<to = 1>(positions)
            column = Unsqueeze(p, axes)
            angle = {product}(column, frequencies)
            c = Cos(angle)
            s_ = Sin(angle)
            h = MatMul(x, w)
            hc = Mul(h, c)
            hs = Mul(h, s_)
            y_ = Add(hc, hs)
            y = MatMul(y_, w)
        }}""",
        axes=np.array([2]),
        frequencies=np.array([[1.0, 0.3, 0.1, 0.01]], np.float32),
        w=np.eye(4, dtype=np.float32),
    )
    InferShapes()(model)
    after, _ = apply(ConvertPrecision(), model)
    types = {node.outputs[0].name: node.outputs[0].dtype for node in after.graph}
    kept = {name for name, dtype in types.items() if dtype == ir.DataType.FLOAT}
    assert kept == {"p", "column", "angle", "c", "s_", "y"}
    feeds = {
        "x": np.ones((1, 2, 4), np.float32),
        "positions": np.array([[3999, 4001]]),
    }
    wanted, got = (run(one, feeds)["y"] for one in (model, after))
    np.testing.assert_allclose(got, wanted, atol=2e-3, rtol=0)
