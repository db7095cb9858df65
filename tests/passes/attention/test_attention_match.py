"""Terms, fills, caps and casts between Q K^T and the softmax; what is none of them is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.fuse_attention import FuseAttention
from fuselage.passes.normalize.infer_shapes import InferShapes

LOWEST = float(np.finfo(np.float32).min)
CONSTANTS = {
    "scale": np.float32(0.25),
    "four": np.float32(4),
    "half": np.float32(0.5),
    "minus": np.float32(-0.5),
    "lowest": np.float32(LOWEST),
    "floor": np.float32(-1e4),
    "low": np.float32(-500),
    "infinite": np.float32(-np.inf),
    "none": np.float32(0),
    "fills": np.array([[-1e9], [-1e8]], np.float32),
    "cap": np.float32(3),
    "uncap": np.float32(1 / 3),
    "seven": np.float32(7),
}
INPUTS = """float[b, 2, q, 16] x, float[b, 2, k, 16] y, float[b, 2, k, 16] v,
    float[2, 1, 1] temperature, float[b, 1, q, 1] warmth,
    float[1, 2, q, k] bias, float[b, 1, 1, k] mask, bool[b, 1, 1, k] shown, bool[b, 1, 1, k] hidden,
    bool[1, 1, q, k] future, bool[q, 1] rows"""
PRODUCT = """
    yt = Transpose<perm = [0, 1, 3, 2]>(y)
    product = MatMul(x, yt)
    raw = Mul(product, scale)
"""
WEIGH = """
    p = Softmax<axis = -1>(scores)
    out = MatMul(p, v)
"""


@pytest.fixture
def build(parse: Any) -> Any:
    """build(steps): from ``raw`` to ``scores``; queries and keys differ in length."""

    def make(steps: str, weigh: str = WEIGH, product: str = PRODUCT) -> ir.Model:
        model = parse(
            f"core ({INPUTS}) => (float[b, 2, q, 16] out) {{ {product} {steps} {weigh} }}",
            **CONSTANTS,
        )
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, queries: int, keys: int) -> dict[str, Any]:
    random = np.random.default_rng(batch * 100 + queries * 10 + keys)

    def normal(*shape: int) -> Any:
        return random.normal(0, 2, shape).astype(np.float32)

    shown = (np.arange(keys) < keys - np.arange(batch)[:, None] % keys)[:, None, None, :]
    return {
        "x": normal(batch, 2, queries, 16),
        "y": normal(batch, 2, keys, 16),
        "v": normal(batch, 2, keys, 16),
        "bias": normal(1, 2, queries, keys),
        "mask": np.where(shown, 0, -1e9).astype(np.float32),
        "shown": shown,
        "hidden": np.logical_not(shown),
        "future": np.triu(np.ones((1, 1, queries, keys), bool), 1),
        "temperature": np.array([0.5, 1.5], np.float32).reshape(2, 1, 1),
        "warmth": 2 + random.random((batch, 1, queries, 1)).astype(np.float32),
        "rows": np.arange(queries)[:, None] % 3 == 2,
    }


CASES = (feeds(3, 7, 5), feeds(2, 3, 7), feeds(1, 1, 1), feeds(1, 4, 1))

TERMS = {
    "a position bias, then a mask": "biased = Add(raw, bias)\n scores = Add(biased, mask)",
    "a mask, then a position bias": "masked = Add(mask, raw)\n scores = Add(bias, masked)",
    "both summed before": "sum = Add(bias, mask)\n scores = Add(raw, sum)",
    "a mask is subtracted": "much = Neg(mask)\n masked = Sub(raw, much)\n"
    "scores = Add(masked, bias)",
    "a bias is subtracted and scaled": "less = Sub(raw, bias)\n scores = Div(less, four)",
    "scaled with the bias": "biased = Add(raw, bias)\n scores = Div(biased, four)",
    "scaled with the bias, from the left": "biased = Add(bias, raw)\n scores = Mul(half, biased)",
    "a fill where hidden": "scores = Where(hidden, lowest, raw)",
    "a fill where not shown": "scores = Where(shown, raw, lowest)",
    "a fill of -1e4": "scores = Where(hidden, floor, raw)",
    "a fill of -infinity": "scores = Where(shown, raw, infinite)",
    "a causal fill and a mask": "causal = Where(future, lowest, raw)\n scores = Add(causal, mask)",
    "a mask and a causal fill": "masked = Add(raw, mask)\n scores = Where(future, lowest, masked)",
    "two fills": "causal = Where(future, floor, raw)\n scores = Where(shown, causal, floor)",
    "a fill, then a bias": "masked = Where(hidden, lowest, raw)\n scores = Add(masked, bias)",
    "a fill, then a scale": "masked = Where(hidden, lowest, raw)\n scores = Div(masked, four)",
    "whole rows are filled": "scores = Where(rows, lowest, raw)",
    "a floor": "masked = Add(raw, mask)\n scores = Max(masked, lowest)",
    "a floor on the left": "biased = Add(raw, bias)\n scores = Max(lowest, biased)",
    "a temperature a head": "scores = Mul(raw, temperature)",
    "a temperature a head on the left, then a mask": "hot = Mul(temperature, raw)\n"
    "scores = Add(hot, mask)",
    "a division by a number a row": "cold = Div(raw, warmth)\n scores = Mul(cold, temperature)",
    "a cap": "small = Div(raw, cap)\n tame = Tanh(small)\n scores = Mul(tame, cap)",
    "a cap, then a mask": "small = Mul(raw, uncap)\n tame = Tanh(small)\n capped = Mul(cap, tame)\n"
    "scores = Add(capped, mask)",
    "a cap, then a fill": "small = Div(raw, cap)\n tame = Tanh(small)\n capped = Mul(tame, cap)\n"
    "scores = Where(shown, capped, lowest)",
}


@pytest.mark.parametrize("name", TERMS)
def test_what_is_added_filled_or_capped_is_kept(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(TERMS[name])
    after, outcome = apply(FuseAttention(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    kinds = [node.op_type for node in after.graph]
    assert not {"Softmax", "MatMul", "Tanh", "Max"} & set(kinds)
    (node,) = (node for node in after.graph if node.op_type == "Attention")
    scale = 0.125 if "the left" in name and "scale" in name else 0.25
    scale = 0.0625 if "scores = Div" in TERMS[name] else scale
    assert node.attributes["scale"].as_float() == scale
    assert ("softcap" in node.attributes) == ("cap" in name)
    same_numbers(model, after, *CASES, atol=5e-6, rtol=1e-5)
    _, second = apply(FuseAttention(), after)
    assert not second.modified


def test_rows_without_keys_keep_the_weights_of_the_fills(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    """A later fill replaces an earlier one: a row it hides wholly is uniform over all keys."""
    model = build(TERMS["two fills"])
    after, _ = apply(FuseAttention(), model)
    case = feeds(2, 5, 5)
    case["shown"] = case["shown"].copy()
    case["shown"][1] = False
    same_numbers(model, after, case, atol=5e-6, rtol=1e-5)


REFUSED = {
    "a fill that weighs": (
        "scores = Where(hidden, low, raw)",
        "Where 'n_scores' fills hidden scores with -500",
    ),
    "a fill that weighs after a scale": (
        "masked = Where(hidden, floor, raw)\n small = Mul(masked, scale)\n"
        "scores = Mul(small, scale)",
        "hidden scores of -2500 are multiplied by 0.25",
    ),
    "a fill of many numbers": (
        "scores = Where(hidden, fills, raw)",
        "Where 'n_scores' fills hidden scores with no constant",
    ),
    "a choice of scores": (
        "other = Neg(raw)\n scores = Where(hidden, other, raw)",
        "Where 'n_scores' fills hidden scores with no constant",
    ),
    "the other side of a fill is no product": (
        "scores = Where(hidden, lowest, bias)",
        "the scores come from the value 'bias', not from MatMul(Q, K^T)",
    ),
    "a floor that weighs": (
        "scores = Max(raw, floor)",
        "the scores are clipped at Max 'n_scores'",
    ),
    "the larger of two": (
        "scores = Max(raw, bias)",
        "the scores are clipped at Max 'n_scores'",
    ),
    "the larger of three": (
        "scores = Max(raw, lowest, bias)",
        "the scores are clipped at Max 'n_scores'",
    ),
    "a cap after the mask": (
        "masked = Add(raw, mask)\n small = Div(masked, cap)\n tame = Tanh(small)\n"
        "scores = Mul(tame, cap)",
        "the scores are capped after they were masked, at 'n_scores'",
    ),
    "two caps": (
        "small = Div(raw, cap)\n tame = Tanh(small)\n once = Mul(tame, cap)\n"
        "small2 = Div(once, cap)\n tame2 = Tanh(small2)\n scores = Mul(tame2, cap)",
        "the scores are capped after they were masked, at 'n_scores'",
    ),
    "a cap of two numbers": (
        "small = Div(raw, cap)\n tame = Tanh(small)\n scores = Mul(tame, seven)",
        "tanh of the scores is scaled by 7 and 0.333333",
    ),
    "a scale after the cap": (
        "small = Div(raw, cap)\n tame = Tanh(small)\n capped = Mul(tame, cap)\n"
        "scores = Mul(capped, half)",
        "the scores are multiplied by 0.5 after they were capped",
    ),
    "a tanh alone": (
        "scores = Tanh(raw)",
        "the scores come from Tanh 'n_scores', not from MatMul(Q, K^T)",
    ),
    "a subtraction": (
        "scores = Sub(bias, raw)",
        "the scores come from the value 'bias', not from MatMul(Q, K^T)",
    ),
    "a negative scale after a mask": (
        "masked = Where(hidden, lowest, raw)\n scores = Mul(masked, minus)",
        "hidden scores of -3.40282e+38 are multiplied by -0.5",
    ),
    "a scale a key": (
        "scores = Mul(raw, mask)",
        "Mul 'n_scores' scales the scores by more than one number a row",
    ),
    "a division by numbers": (
        "scores = Div(temperature, raw)",
        "Div 'n_scores' scales the scores by more than one number a row",
    ),
    "a scale a head after a mask": (
        "masked = Add(raw, mask)\n scores = Mul(masked, temperature)",
        "rows are scaled after they were masked or capped, at 'n_scores'",
    ),
    "an operator of another domain": (
        "scores = com.microsoft.Add(raw, mask)",
        "the scores come from Add 'n_scores', not from MatMul(Q, K^T)",
    ),
    "many additions": (
        "\n".join(f"s{i + 1} = Add(s{i}, mask)" for i in range(20)).replace("s0", "raw")
        + "\n scores = Add(s20, mask)",
        "more steps between Q K^T and the softmax than expected",
    ),
}


def test_integers_are_no_mask(build: Any, apply: Any) -> None:
    model = build("scores = Add(raw, mask)")
    mask = next(value for value in model.graph.inputs if value.name == "mask")
    mask.type = ir.TensorType(ir.DataType.INT64)
    _, outcome = apply(FuseAttention(), model)
    assert not outcome.modified
    reason = "INT64 'mask' is added to the scores, expected a float mask"
    assert outcome.refusals[0].reason == reason


@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_weights_is_refused(build: Any, apply: Any, name: str) -> None:
    steps, reason = REFUSED[name]
    _, outcome = apply(FuseAttention(), build(steps))
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert (refusal.node, refusal.reason) == ("n_out", reason)


@pytest.mark.parametrize("fill", ["none", "half"])
def test_the_guard_of_empty_rows_goes_when_it_gives_zero(
    build: Any, apply: Any, same_numbers: Any, fill: str
) -> None:
    weigh = f"""p = Softmax<axis = -1>(scores)\n empty = IsNaN(p)
        safe = Where(empty, {fill}, p)\n out = MatMul(safe, v)"""
    model = build("scores = Where(shown, raw, infinite)", weigh)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == (fill == "none")
    assert outcome.refusals == ()
    same_numbers(model, after, *CASES, atol=5e-6, rtol=1e-5)


NARROW = ("x", "y", "v", "bias", "temperature", "warmth")
HALF = INPUTS.replace("float[", "float16[").replace("float16[b, 1, 1, k]", "float[b, 1, 1, k]")
IN_FLOAT32 = {
    "the softmax": """yt = Transpose<perm = [0, 1, 3, 2]>(y)
        product = MatMul(x, yt)\n raw = Mul(product, quarter)
        wide = Cast<to = 1>(raw)\n scores = Add(wide, mask)\n p = Softmax(scores)
        narrow = Cast<to = 10>(p)\n out = MatMul(narrow, v)""",
    "the product": """xw = Cast<to = 1>(x)\n yw = Cast<to = 1>(y)
        yt = Transpose<perm = [0, 1, 3, 2]>(yw)\n product = MatMul(xw, yt)
        raw = Mul(product, scale)\n wide = Cast<to = 1>(bias)\n biased = Add(raw, wide)
        scores = Add(biased, mask)\n p = Softmax(scores)\n narrow = Cast<to = 10>(p)
        out = MatMul(narrow, v)""",
}


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_scores_in_float32_inside_a_float16_graph(
    parse: Any, apply: Any, run: Any, name: str
) -> None:
    constants = {"scale": np.float32(0.25), "quarter": np.float16(0.25)}
    model = parse(
        f"core ({HALF}) => (float16[b, 2, q, 16] out) {{ {IN_FLOAT32[name]} }}", **constants
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    (node,) = (node for node in after.graph if node.op_type == "Attention")
    assert {value.dtype for value in node.inputs if value is not None} == {ir.DataType.FLOAT16}
    assert node.outputs[0].dtype == ir.DataType.FLOAT16
    for case in (feeds(3, 7, 5), feeds(1, 1, 3)):
        half = {
            name: array.astype(np.float16) if name in NARROW else array
            for name, array in case.items()
        }
        got, wanted = run(after, half)["out"], run(model, half)["out"]
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, wanted, atol=1e-2)  # 2^-9 of values to 6


def test_a_softmax_in_float64_keeps_the_type_of_the_product(
    parse: Any, apply: Any, same_numbers: Any
) -> None:
    model = parse(
        f"""core ({INPUTS}) => (float[b, 2, q, 16] out) {{ {PRODUCT}
            scores = Cast<to = 11>(raw)\n wide = Softmax(scores)\n p = Cast<to = 1>(wide)
            out = MatMul(p, v) }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    same_numbers(model, after, *CASES, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("cast", ["Cast<to = 7>(raw)", "Cast<to = 17>(raw)"])
def test_casts_that_quantise_are_refused(build: Any, cast: str) -> None:
    model = build(f"few = {cast}\n scores = Cast<to = 1>(few)")
    outcome = FuseAttention()(model)
    assert not outcome.modified
    assert outcome.refusals[0].reason.startswith("the scores come from Cast 'n_scores'")


def test_a_wide_mask_stays_finite_in_float16(parse: Any, apply: Any, run: Any) -> None:
    """-1e9 is no float16: without a floor a row without keys would lose its uniform weights."""
    body = IN_FLOAT32["the product"].replace("Add(biased, mask)", "Add(twice, mask)")
    body = body.replace("scores = ", "twice = Add(biased, mask)\n scores = ")
    model = parse(
        f"core ({HALF}) => (float16[b, 2, q, 16] out) {{ {body} }}", scale=np.float32(0.25)
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    case = feeds(2, 3, 5)
    half = {name: case[name].astype(np.float16) for name in NARROW}
    others = {name: case[name] for name in ("shown", "hidden", "future", "rows")}
    mask = np.full((2, 1, 1, 5), -1e9, np.float32)
    mask[0, ..., :2] = 0
    got, wanted = (run(graph, half | others | {"mask": mask})["out"] for graph in (after, model))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, wanted, atol=1e-2)


SINGLE = """float[b, q, 16] x, float[b, k, 16] y, float[b, 16, k] yt, float[b, k, 16] v,
    float[b, 1, k] mask, float[q, k] bias, bool[b, 1, k] shown, float[b, q, k] scores_bias"""
ONE_HEAD = {
    "plain": "scores = Identity(raw)",
    "a mask": "scores = Add(raw, mask)",
    "a bias a query": "scores = Add(bias, raw)",
    "a fill and a bias": "filled = Where(shown, raw, lowest)\n scores = Add(filled, bias)",
    "a bias of the full size": "scores = Add(raw, scores_bias)",
    "keys last": "scores = Add(raw, mask)",
}


@pytest.mark.parametrize("name", ONE_HEAD)
def test_a_single_head_has_three_dimensions(
    parse: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    keys = "" if name == "keys last" else "yt2 = Transpose<perm = [0, 2, 1]>(y)"
    model = parse(
        f"""pooling ({SINGLE}) => (float[b, q, 16] out) {{ {keys}
            product = MatMul(x, {"yt2" if keys else "yt"})\n raw = Mul(product, scale)
            {ONE_HEAD[name].replace("scores = Identity(raw)", "")}
            p = Softmax<axis = 2>({"raw" if name == "plain" else "scores"})
            out = MatMul(p, v) }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = (node for node in after.graph if node.op_type == "Attention")
    heads = [node.attributes[name].as_int() for name in ("q_num_heads", "kv_num_heads")]
    assert heads == [1, 1]
    for batch, queries, length in ((3, 7, 5), (2, 1, 6), (1, 1, 1), (2, 3, 3)):
        case = feeds(batch, queries, length)
        single = {name: case[name][:, 0] for name in ("x", "y", "v", "mask", "shown")}
        single |= {"yt": single["y"].swapaxes(1, 2).copy(), "bias": case["bias"][0, 0]}
        single["scores_bias"] = (single["x"] @ single["yt"])[..., ::-1].copy()
        same_numbers(model, after, single, atol=5e-6, rtol=1e-5)
    assert not apply(FuseAttention(), after)[1].modified


RANKS = {
    "a router of experts": ("b, n, 16", "16, e", "e, 16", "K has 2 dimensions, expected 4, or 3"),
    "one V for all": ("b, n, 16", "b, 16, e", "e, 16", "V has shape [e,16], expected 3 dimensions"),
    "one Q for all": ("n, 16", "b, 16, e", "b, e, 16", "Q has shape [n,16], expected 3 dimensions"),
    "windows": (
        "w, b, 2, n, 16",
        "w, b, 2, 16, e",
        "w, b, 2, e, 16",
        "K has 5 dimensions, expected",
    ),
}


@pytest.mark.parametrize("rank", [3, 4])
def test_masks_of_more_dimensions_than_the_scores_are_refused(
    parse: Any, apply: Any, rank: int
) -> None:
    heads = "2, " if rank == 4 else ""
    tensor = f"float[1, {heads}s, 16]"
    more = f"float[b, 1, {heads}s, s]"
    model = parse(
        f"""core ({tensor} x, {tensor} y, {tensor} v, {more} mask)
            => (float[b, 1, {heads}s, 16] out)
            {{ yt = Transpose<perm = {[0, 1, 3, 2] if heads else [0, 2, 1]}>(y)
               raw = MatMul(x, yt)\n scores = Add(raw, mask)\n p = Softmax(scores)
               out = MatMul(p, v) }}"""
    )
    InferShapes()(model)
    _, outcome = apply(FuseAttention(), model)
    assert not outcome.modified
    assert f"expected at most {rank} dimensions" in outcome.refusals[0].reason


@pytest.mark.parametrize("name", RANKS)
def test_other_ranks_are_refused(parse: Any, apply: Any, name: str) -> None:
    q, k, v, reason = RANKS[name]
    out = q if len(q) > len(k) - 3 else k[: k.index("16")] + "n, 16"
    model = parse(
        f"""ranks (float[{q}] x, float[{k}] y, float[{v}] v) => (float[{out}] out)
            {{ raw = MatMul(x, y)\n p = Softmax<axis = -1>(raw)\n out = MatMul(p, v) }}"""
    )
    InferShapes()(model)
    _, outcome = apply(FuseAttention(), model)
    assert not outcome.modified
    assert outcome.refusals[0].reason.startswith(reason)
