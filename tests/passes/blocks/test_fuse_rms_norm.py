"""RMS norms in primitive operators become the operator, whatever their root and their Casts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.blocks.fuse_layer_norm import FuseLayerNorm
from fuselage.passes.blocks.fuse_rms_norm import FuseRmsNorm
from fuselage.passes.normalize.infer_shapes import InferShapes

SQUARES = {"pow": "q = Pow(x, two)", "mul": "q = Mul(x, x)"}
ROOTS = {
    "reciprocal": "r = Sqrt(v)\n i = Reciprocal(r)\n n = Mul(x, i)",
    "one over": "r = Sqrt(v)\n i = Div(one, r)\n n = Mul(i, x)",
    "divided": "r = Sqrt(v)\n n = Div(x, r)",
    "power": "i = Pow(v, minus_half)\n n = Mul(x, i)",
    "positive power": "i = Pow(v, half)\n n = Div(x, i)",
    "reciprocal of a power": "r = Pow(v, half)\n i = Reciprocal(r)\n n = Mul(x, i)",
}
GAINS = {"right": "y = Mul(n, gain)", "left": "y = Mul(gain, n)"}
EPSILON = {"right": "v = Add(m, epsilon)", "left": "v = Add(epsilon, m)"}


def body(
    *, square: str = "pow", root: str = "reciprocal", gain: str = "right", epsilon: str = "right",
    axes: str = "last", keep: int = 1,
) -> str:  # fmt: skip
    return f"""{SQUARES[square]}
        m = ReduceMean<keepdims = {keep}>(q, {axes})
        {EPSILON[epsilon]}
        {ROOTS[root]}
        {GAINS[gain]}"""


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(
        text: str, *, shape: str = "b, s, 6", dtype: str = "float", out: str = "float",
        opset: int = 23, more: str = "", **changed: Any,
    ) -> ir.Model:  # fmt: skip
        constants = {
            "last": np.array([-1], np.int64),
            "second": np.array([2], np.int64),
            "first": np.array([1], np.int64),
            "two": np.float32(2),
            "one": np.float32(1),
            "half": np.float32(0.5),
            "minus_half": np.float32(-0.5),
            "epsilon": np.float32(1e-3),
            "gain": rng.normal(1, 0.5, 6).astype(np.float32),
        } | changed
        text = f"norm ({dtype}[{shape}] x) => ({out}[{shape}] y{more}) {{ {text} }}"
        model: ir.Model = parse(text, opset=opset, **constants)
        InferShapes()(model)
        return model

    return make


def feeds(rng: np.random.Generator, *shape: int) -> tuple[dict[str, Any], ...]:
    return (
        {"x": rng.normal(0.5, 2, (*shape, 6)).astype(np.float32)},
        {"x": np.zeros((*shape, 6), np.float32)},  # no power: epsilon decides
        {"x": rng.normal(0, 1e-2, (*shape, 6)).astype(np.float32)},
    )


@pytest.mark.parametrize(
    "options",
    [
        *({"root": root} for root in ROOTS),
        {"square": "mul"},
        {"gain": "left"},
        {"epsilon": "left"},
        {"axes": "second"},
    ],
    ids=str,
)
def test_every_spelling_becomes_the_operator(
    build: Any, apply: Any, same_numbers: Any, rng: Any, options: dict[str, str]
) -> None:
    model = build(body(**options))
    after, outcome = apply(FuseRmsNorm(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert node.op_type == "RMSNormalization"
    assert [value.name for value in node.inputs] == ["x", "gain"]
    assert node.attributes["axis"].as_int() == -1
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
    same_numbers(model, after, *feeds(rng, 3, 7), atol=2e-6, rtol=1e-5)
    _, second = apply(FuseRmsNorm(), after)
    assert not second.modified


def test_heads_are_normalised_over_their_size(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(body(), shape="b, s, 2, 6")
    after, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["RMSNormalization"]
    same_numbers(model, after, *feeds(rng, 2, 5, 2), atol=2e-6, rtol=1e-5)


def test_without_a_gain_it_is_ones(build: Any, apply: Any, same_numbers: Any, rng: Any) -> None:
    model = build(body().replace("y = Mul(n, gain)", "y = Neg(n)"))
    after, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["RMSNormalization", "Neg"]
    same_numbers(model, after, *feeds(rng, 3, 7), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "gain", [np.full(1, 2, np.float32), np.full((1, 6), 2, np.float32), np.float32(2)], ids=np.shape
)
def test_a_gain_that_is_no_vector_stays_a_product(
    build: Any, apply: Any, same_numbers: Any, rng: Any, gain: Any
) -> None:
    model = build(body(), gain=gain)
    after, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["RMSNormalization", "Mul"]
    same_numbers(model, after, *feeds(rng, 3, 7), atol=2e-6, rtol=1e-5)


def test_a_computed_gain_is_taken(build: Any, apply: Any, same_numbers: Any, rng: Any) -> None:
    model = build(body().replace("y =", "w = Add(gain, one)\n y =").replace("(n, gain)", "(n, w)"))
    after, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["Add", "RMSNormalization"]
    same_numbers(model, after, *feeds(rng, 3, 7), atol=2e-6, rtol=1e-5)


def test_inner_results_that_others_read_stay(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(body(), more=", float[b, s, 6] n, float[b, s, 1] m")
    after, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    same_numbers(model, after, *feeds(rng, 3, 7), atol=2e-6, rtol=1e-5)


HALF = """
    w = Cast<to = 1>(x)
    q = Pow(w, two)
    m = ReduceMean<keepdims = 1>(q, last)
    v = Add(m, epsilon)
    r = Sqrt(v)
    i = Reciprocal(r)
    n = Mul(w, i)
    {rest}
"""


def half_feeds(rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.normal(0, 100, (3, 7, 6)).astype(np.float16)}  # squares overflow float16


def test_casts_of_half_precision_are_the_operators_own(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(
        HALF.format(rest="c = Cast<to = 10>(n)\n y = Mul(gain, c)"),
        dtype="float16",
        out="float16",
        gain=rng.normal(1, 0.5, 6).astype(np.float16),
    )
    after, outcome = apply(FuseRmsNorm(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert [value.name for value in node.inputs] == ["x", "gain"]
    same_numbers(model, after, half_feeds(rng), atol=2e-3, rtol=2e-3)


def test_a_float32_gain_keeps_the_casts(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(
        HALF.format(rest="s = Mul(n, gain)\n y = Cast<to = 10>(s)"), dtype="float16", out="float16"
    )
    after, outcome = apply(FuseRmsNorm(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert [node.op_type for node in after.graph] == ["Cast", "RMSNormalization", "Cast"]
    same_numbers(model, after, half_feeds(rng), atol=2e-3, rtol=2e-3)


def test_casts_to_the_own_type_do_not_hide_a_norm(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    model = build(HALF.format(rest="c = Cast<to = 1>(n)\n y = Mul(c, gain)"))
    after, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    (node,) = after.graph
    assert [value.name for value in node.inputs] == ["x", "gain"]
    same_numbers(model, after, *feeds(rng, 3, 7), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "changed", "reason"),
    [
        ({"axes": "first"}, {}, "variance: the mean is over axes (1,), not over the last one"),
        ({}, {"last": np.array([1, 2])}, "variance: the mean is over axes (1, 2), not over the"),
        ({}, {"two": np.float32(3)}, "exponent is 3, not 2"),
        ({}, {"epsilon": np.full(6, 1e-3, np.float32)}, "epsilon is not a scalar constant"),
    ],
)
def test_refusals_name_the_reason(
    build: Any, apply: Any, options: dict[str, Any], changed: dict[str, Any], reason: str
) -> None:
    after, outcome = apply(FuseRmsNorm(), build(body(**options), **changed))
    assert not outcome.modified
    assert [refusal.node for refusal in outcome.refusals] == ["n_n"]
    assert outcome.refusals[0].reason.startswith(reason)
    assert "RMSNormalization" not in [node.op_type for node in after.graph]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("n = Mul(x, i)", "z = Neg(x)\n n = Mul(z, i)", "it divides 'z' by the root mean square"),
        ("q = Pow(x, two)", "z = Neg(x)\n q = Mul(x, z)", "'n_q' multiplies two tensors"),
        ("q = Pow(x, two)", "q = Abs(x)", "'n_m' is the mean of something else than a square"),
    ],
)
def test_other_equations_are_refused(
    build: Any, apply: Any, old: str, new: str, reason: str
) -> None:
    text = body()
    assert old in text
    _, outcome = apply(FuseRmsNorm(), build(text.replace(old, new)))
    assert not outcome.modified
    assert outcome.refusals[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("i = Reciprocal(r)", "i = Neg(r)"),
        ("n = Mul(x, i)", "n = Mul(x, r)"),
        ("n = Mul(x, i)", "n = Div(x, i)"),
        ("i = Reciprocal(r)", "i = Div(two, r)"),
        ("r = Sqrt(v)", "r = Pow(v, two)"),
        ("m = ReduceMean", "m = ReduceSum"),
    ],
)
def test_what_divides_by_no_root_of_a_mean_is_not_a_candidate(
    build: Any, apply: Any, old: str, new: str
) -> None:
    _, outcome = apply(FuseRmsNorm(), build(body().replace(old, new)))
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_float64_is_refused(build: Any, apply: Any) -> None:
    double = {name: np.float64(value) for name, value in {"two": 2, "epsilon": 1e-3}.items()}
    model = build(body(), dtype="double", out="double", gain=np.ones(6), **double)
    _, outcome = apply(FuseRmsNorm(), model)
    (refusal,) = outcome.refusals
    assert refusal.reason == "it computes in float64, the operator in float32"


def test_an_unknown_width_is_refused(build: Any, apply: Any) -> None:
    model = build(body())
    model.graph.inputs[0].shape = ir.Shape(["b", "s", None])
    _, outcome = apply(FuseRmsNorm(), model)
    assert outcome.refusals[0].reason == "the width of 'x' [b,s,None] is unknown"


def test_a_layer_norm_is_left_to_its_own_pass(
    build: Any, apply: Any, same_numbers: Any, rng: Any
) -> None:
    text = "a = ReduceMean<keepdims = 1>(x, last)\n c = Sub(x, a)\n" + body().replace("(x", "(c")
    model = build(text)
    after, outcome = apply(FuseLayerNorm(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["LayerNormalization"]
    same_numbers(model, after, *feeds(rng, 3, 7), atol=5e-6, rtol=1e-5)
    # Without that pass the centred tensor still has an RMS norm.
    other, outcome = apply(FuseRmsNorm(), model)
    assert outcome.rewrites == 1
    same_numbers(model, other, *feeds(rng, 3, 7), atol=5e-6, rtol=1e-5)


def test_older_opsets_are_refused(build: Any) -> None:
    with pytest.raises(ir.passes.PreconditionError) as caught:
        FuseRmsNorm()(build(body(), opset=20))
    assert "emits operators of opset 23, but the graph imports opset 20" in str(
        caught.value.__cause__
    )
