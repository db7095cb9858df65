"""LayerNorm in primitive operators becomes the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.clean_up import InferShapes
from fuselage.passes.fuse_layer_norm import FuseLayerNorm

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


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(
        square: str = "pow", *, axes1: str = "last", axes2: str = "last", keep: int = 1,
        more: str = "", opset: int = 18, infer: bool = True, **changed: Any,
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
        text = TEXT.format(square=SQUARES[square], axes1=axes1, axes2=axes2, keep=keep, more=more)
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
        ({"gain": np.ones((1, 6), np.float32)}, "gain has shape [1, 6], not [6]"),
        ({"gain": np.ones(1, np.float32)}, "gain has shape [1], not [6]"),
        ({"bias": np.ones((1, 1, 6), np.float32)}, "bias has shape [1, 1, 6], not [6]"),
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


def test_an_unknown_width_is_refused(build: Any, apply: Any) -> None:
    model = build()
    model.graph.inputs[0].shape = ir.Shape(["b", "s", None])
    _, outcome = apply(FuseLayerNorm(), model)
    assert outcome.refusals[0].reason == "gain has shape [6], not [None]"


def test_inner_results_that_others_read_stay(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(more=", float[b, s, 6] normed")
    after, _ = apply(FuseLayerNorm(), model)
    same_numbers(model, after, *feeds(rng), atol=5e-6, rtol=1e-5)


def test_older_opsets_are_refused(build: Any) -> None:
    model = build()
    model.opset_imports[""] = 17
    with pytest.raises(ir.passes.PreconditionError) as caught:
        FuseLayerNorm()(model)
    assert "emits operators of opset 18, but the graph imports opset 17" in str(
        caught.value.__cause__
    )
