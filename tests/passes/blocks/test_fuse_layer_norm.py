"""LayerNorm in primitive operators becomes the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.blocks.fuse_layer_norm import FuseLayerNorm
from fuselage.passes.normalize.infer_shapes import InferShapes

TEXT = """norm (float[b, s, 6] x) => (float[b, s, 6] y{more}) {{
    mean = ReduceMean<keepdims = {keep}>(x, {axes1})
    centred = Sub(x, mean)
    {square}
    variance = ReduceMean<keepdims = 1>(squared, {axes2})
    shifted = Add(variance, epsilon)
    root = Sqrt(shifted)
    normed = Div(centred, root)
    scaled = Mul(normed, gain)
    y = Add(scaled, bias)
}}"""
SQUARES = {"pow": "squared = Pow(centred, two)", "mul": "squared = Mul(centred, centred)"}
OTHER_SQUARES = {"x": "squared = Pow(x, two)"}


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(
        square: str = "pow", *, axes1: str = "last", axes2: str = "last", keep: int = 1,
        more: str = "", opset: int = 18, infer: bool = True, text: str = TEXT, **changed: Any,
    ) -> ir.Model:  # fmt: skip
        constants = {
            "last": np.array([-1], np.int64),
            "second": np.array([2], np.int64),
            "first": np.array([1], np.int64),
            "both": np.array([1, 2], np.int64),
            "two": np.float32(2),
            "epsilon": np.float32(1e-3),
            "gain": rng.normal(1, 0.5, 6).astype(np.float32),
            "bias": rng.normal(0, 1, 6).astype(np.float32),
        } | changed
        text = text.format(
            square=(SQUARES | OTHER_SQUARES)[square], axes1=axes1, axes2=axes2, keep=keep, more=more
        )
        model: ir.Model = parse(text, opset=opset, **constants)
        if infer:
            InferShapes()(model)
        return model

    return make


def feeds(rng: np.random.Generator) -> tuple[dict[str, Any], ...]:
    return (
        {"x": rng.normal(0.5, 2, (3, 7, 6)).astype(np.float32)},
        {"x": np.zeros((1, 1, 6), np.float32)},  # no variance: epsilon decides
        {"x": rng.normal(0, 1e-2, (1, 3, 6)).astype(np.float32)},
    )


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("axes", ["last", "second"])
def test_both_squares_and_both_axes(
    build: Any, apply: Any, same_numbers: Any, rng: Any, square: str, axes: str
) -> None:
    model = build(square, axes1=axes, axes2=axes)
    after, outcome = apply(FuseLayerNorm(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert node.op_type == "LayerNormalization"
    assert node.attributes["axis"].as_int() == -1
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
    assert [value.name for value in node.inputs] == ["x", "gain", "bias"]
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)
    _, second = apply(FuseLayerNorm(), after)
    assert not second.modified


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"axes1": "first"}, "mean: the mean is over axes (1,), not over the last one"),
        ({"axes1": "both"}, "mean: the mean is over axes (1, 2), not over the last one"),
        ({"axes2": "first"}, "variance: the mean is over axes (1,), not over the last one"),
        ({"keep": 0}, "mean: the mean drops its axis"),
        ({"two": np.float32(3)}, "exponent is 3, not 2"),
        ({"epsilon": np.full(6, 1e-3, np.float32)}, "epsilon is not a scalar constant"),
    ],
)
def test_refusals_name_the_reason(
    build: Any, apply: Any, options: dict[str, Any], reason: str
) -> None:
    after, outcome = apply(FuseLayerNorm(), build(**options))
    assert not outcome.modified
    assert "LayerNormalization" not in [node.op_type for node in after.graph]
    assert [refusal.reason for refusal in outcome.refusals] == [reason]


@pytest.mark.parametrize("root", ["i = Reciprocal(root)", "i = Div(one, root)"])
def test_a_product_with_the_inverse_root(
    build: Any, apply: Any, same_numbers: Any, rng: Any, root: str
) -> None:
    text = TEXT.replace("normed = Div(centred, root)", f"{root}\n    normed = Mul(i, centred)")
    model = build(text=text, one=np.float32(1))
    after, outcome = apply(FuseLayerNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["LayerNormalization"]
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (TEXT.replace("y = Add(scaled, bias)", "y = Neg(scaled)"), ["Neg"]),
        (TEXT.replace("scaled = Mul(normed, gain)", "scaled = Neg(normed)"), ["Neg", "Add"]),
        (TEXT.replace("y = Add(scaled, bias)", "y = Add(scaled, x)"), ["Add"]),
    ],
    ids=["no bias", "no gain", "a residual"],
)
def test_gain_and_bias_may_be_absent(
    build: Any, apply: Any, same_numbers: Any, rng: Any, text: str, left: list[str]
) -> None:
    model = build(text=text)
    after, outcome = apply(FuseLayerNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["LayerNormalization", *left]
    assert len(after.graph[0].inputs) == 2
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)
    _, second = apply(FuseLayerNorm(), after)
    assert not second.modified


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"gain": np.full((1, 6), 2, np.float32)}, ["Mul", "Add"]),
        ({"gain": np.full(1, 2, np.float32)}, ["Mul", "Add"]),
        ({"bias": np.ones((1, 1, 6), np.float32)}, ["Add"]),
    ],
)
def test_parameters_that_are_no_vectors_stay_behind(
    build: Any, apply: Any, same_numbers: Any, rng: Any, options: dict[str, Any], left: list[str]
) -> None:
    model = build(**options)
    after, outcome = apply(FuseLayerNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["LayerNormalization", *left]
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)


def test_axes_are_an_attribute_before_opset_18(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    text = TEXT.replace("(x, {axes1})", "(x)").replace("(squared, {axes2})", "(squared)")
    text = text.replace("keepdims = {keep}", "axes = [-1]").replace("keepdims = 1", "axes = [-1]")
    model = build(text=text, opset=17)
    after, outcome = apply(FuseLayerNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["LayerNormalization"]
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)


def test_half_precision_computed_in_float32(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    text = TEXT.replace("float[b, s, 6]", "float16[b, s, 6]")
    text = text.replace("mean = Red", "w = Cast<to = 1>(x)\n    mean = Red", 1)
    text = text.replace("(x, {axes1})", "(w, {axes1})").replace("Sub(x, mean)", "Sub(w, mean)")
    text = text.replace("Mul(normed, gain)", "Mul(gain, n)").replace(
        "scaled =", "n = Cast<to = 10>(normed)\n    scaled ="
    )
    gain, bias = rng.normal(1, 0.5, (2, 6)).astype(np.float16)
    model = build(text=text, gain=gain, bias=bias)
    after, outcome = apply(FuseLayerNorm(), model)
    assert outcome.rewrites == 1
    (node,) = after.graph
    assert [value.name for value in node.inputs] == ["x", "gain", "bias"]
    feed = {"x": rng.normal(0, 100, (3, 7, 6)).astype(np.float16)}
    same_numbers(model, after, feed, atol=4e-3, rtol=2e-3)


def test_another_numerator_is_refused(build: Any, apply: Any) -> None:
    text = TEXT.replace("Div(centred, root)", "Mul(other, i)").replace(
        "normed =", "i = Reciprocal(root)\n    other = Sub(mean, x)\n    normed ="
    )
    _, outcome = apply(FuseLayerNorm(), build(text=text))
    assert (outcome.modified, outcome.refusals) == (False, ())  # mean - x is no centred tensor
    text = TEXT.replace("variance = ReduceMean<keepdims = 1>(squared", "half = Neg(squared)\n    "
                        "variance = ReduceMean<keepdims = 1>(half")  # fmt: skip
    _, outcome = apply(FuseLayerNorm(), build(text=text))
    assert outcome.refusals[0].reason == "'n_variance' is the mean of something else than a square"


def test_the_mean_of_another_tensor_centres_nothing(build: Any, apply: Any) -> None:
    text = TEXT.replace("mean = ReduceMean<keepdims = {keep}>(x,", "z = Neg(x)\n    mean = "
                        "ReduceMean<keepdims = {keep}>(z,")  # fmt: skip
    _, outcome = apply(FuseLayerNorm(), build(text=text))
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_the_square_of_another_tensor_is_refused(build: Any, apply: Any) -> None:
    _, outcome = apply(FuseLayerNorm(), build("x"))
    assert not outcome.modified
    assert [refusal.reason for refusal in outcome.refusals] == [
        "it divides 'centred' by the root mean square of 'x'"
    ]


def test_an_unknown_width_is_refused(build: Any, apply: Any) -> None:
    model = build()
    model.graph.inputs[0].shape = ir.Shape(["b", "s", None])
    _, outcome = apply(FuseLayerNorm(), model)
    assert outcome.refusals[0].reason == "the width of 'x' [b,s,None] is unknown"


def test_inner_results_that_others_read_stay(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(more=", float[b, s, 6] normed")
    after, _ = apply(FuseLayerNorm(), model)
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)


def test_older_opsets_are_refused(build: Any) -> None:
    model = build()
    model.opset_imports[""] = 16
    with pytest.raises(ir.passes.PreconditionError) as caught:
        FuseLayerNorm()(model)
    assert "emits operators of opset 17, but the graph imports opset 16" in str(
        caught.value.__cause__
    )
