"""Attention over heads folded into the batch becomes attention over four dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.fuse_attention import FuseAttention
from fuselage.passes.attention.split_batched_heads import SplitBatchedHeads
from fuselage.passes.normalize.infer_shapes import InferShapes

INPUTS = """float[b, 2, q, 4] x, float[b, 2, k, 4] y, float[b, 2, k, 4] v, float[1, q, k] bias,
    float[b, 1, 1, k] mask, float[k] tilt"""
CONSTANTS = {
    "half": np.float32(0.5),
    "numbers": np.array([0.5, 1, 2, 3], np.float32),
    "lowest": np.float32(-3e38),
    "zero": np.array(0),
    "minus": np.array([-1]),
    "two": np.array([2]),
    "four": np.array([4]),
    "four_keys": np.array([2, 2, 4, 4]),
}
SIZES = """
    b = Shape<start = 0, end = 1>(x)
    q = Shape<start = 2, end = 3>(x)
    k = Shape<start = 2, end = 3>(y)
    to_x = Concat<axis = 0>(minus, q, four)
    to_y = Concat<axis = 0>(minus, k, four)
    to_kt = Concat<axis = 0>(b, two, four, k)
    to_scores = Concat<axis = 0>(b, two, q, k)
    to_out = Concat<axis = 0>(b, two, q, four)
"""
FOLD = "x3 = Reshape(x, to_x)\n y3 = Reshape(y, to_y)\n v3 = Reshape(v, to_y)\n"
TRANSPOSE = "t3 = Transpose<perm = [0, 2, 1]>(y3)\n"
SOFTMAX = "scores = Add(raw, mask)\n p = Softmax(scores)\n out = MatMul(p, v)\n"
SPELLINGS = {
    "the transposition of K alone": "y3 = Reshape(y, to_y)\n"
    + TRANSPOSE
    + "yt = Reshape(t3, to_kt)\n raw = MatMul(x, yt)\n"
    + SOFTMAX,
    "the product of Q and K": FOLD
    + TRANSPOSE
    + "x3s = Mul(x3, half)\n raw3 = MatMul(x3s, t3)\n raw = Reshape(raw3, to_scores)\n"
    + SOFTMAX,
    "the product and a bias": FOLD
    + TRANSPOSE
    + "raw3 = MatMul(x3, t3)\n biased = Add(bias, raw3)\n tilted = Sub(biased, tilt)\n"
    "small = Div(tilted, half)\n raw = Reshape(small, to_scores)\n" + SOFTMAX,
    "everything": FOLD
    + TRANSPOSE
    + "raw3 = MatMul(x3, t3)\n biased = Add(raw3, bias)\n p = Softmax<axis = 2>(biased)\n"
    "out3 = MatMul(p, v3)\n out = Reshape(out3, to_out)\n",
    "everything in double precision with a floor": FOLD
    + TRANSPOSE
    + "raw3 = MatMul(x3, t3)\n biased = Add(raw3, tilt)\n safe = Max(biased, lowest)\n"
    "wide = Cast<to = 11>(safe)\n pw = Softmax(wide)\n p = Cast<to = 1>(pw)\n"
    "out3 = MatMul(p, v3)\n out = Reshape(out3, to_out)\n",
}


@pytest.fixture
def build(parse: Any) -> Any:
    """build(body): x, y and v are Q, K and V; queries and keys differ in length."""

    def make(body: str, outputs: str = "", inputs: str = INPUTS) -> ir.Model:
        model = parse(
            f"core ({inputs}) => (float[b, 2, q, 4] out{outputs}) {{ {SIZES} {body} }}", **CONSTANTS
        )
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, queries: int, keys: int, **more: Any) -> dict[str, Any]:
    random = np.random.default_rng(batch * 100 + queries * 10 + keys)

    def normal(*shape: int) -> Any:
        return random.normal(0, 1, shape).astype(np.float32)

    shown = np.arange(keys) < keys - np.arange(batch)[:, None] % keys
    return {
        "x": normal(batch, 2, queries, 4),
        "y": normal(batch, 2, keys, 4),
        "v": normal(batch, 2, keys, 4),
        "bias": normal(1, queries, keys),
        "mask": np.where(shown, 0, -1e9).astype(np.float32)[:, None, None, :],
        "tilt": normal(keys),
        **more,
    }


CASES = (feeds(3, 5, 7), feeds(2, 4, 4), feeds(1, 1, 1), feeds(2, 1, 6))


@pytest.mark.parametrize("name", SPELLINGS)
def test_folded_heads_are_split_and_fused(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(SPELLINGS[name])
    split, outcome = apply(SplitBatchedHeads(), model)
    assert outcome.rewrites == 1
    kept = {node.name for node in model.graph} - {node.name for node in split.graph}
    assert not any(name.startswith(("n_t3", "n_raw3")) for name in kept)
    same_numbers(model, split, *CASES, atol=2e-6, rtol=1e-5)
    assert not apply(SplitBatchedHeads(), split)[1].modified
    fused, outcome = apply(FuseAttention(), split)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    same_numbers(model, fused, *CASES, atol=2e-6, rtol=1e-5)


def test_twins_are_typed_like_their_originals(build: Any, apply: Any) -> None:
    name = "everything in double precision with a floor"
    split, _ = apply(SplitBatchedHeads(), build(SPELLINGS[name]))
    (softmax,) = (node for node in split.graph if node.op_type == "Softmax")
    assert softmax.outputs[0].dtype == ir.DataType.DOUBLE
    assert str(softmax.outputs[0].shape) == "[b,2,q,k]"
    assert softmax.attributes["axis"].as_int() == -1


BMM = SPELLINGS["everything"]


def test_an_operand_that_was_never_folded_is_split(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    """ALiBi: a bias [batch * heads, 1, keys] built in three dimensions."""
    inputs = INPUTS.replace("float[1, q, k] bias", "float[n, 1, k] bias")
    model = build(BMM, inputs=inputs)
    split, outcome = apply(SplitBatchedHeads(), model)
    assert outcome.rewrites == 1
    cases = [
        one | {"bias": one["y"].reshape(-1, 1, one["y"].shape[2] * 4)[..., ::4]} for one in CASES
    ]
    same_numbers(model, split, *cases, atol=2e-6, rtol=1e-5)


def test_what_others_read_keeps_its_name(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(BMM, ", float[n, q, k] p")
    split, outcome = apply(SplitBatchedHeads(), model)
    assert outcome.rewrites == 1
    names = [node.name for node in split.graph]
    assert len(set(names)) == len(names)
    assert "n_p" in names
    same_numbers(model, split, *CASES, atol=2e-6, rtol=1e-5)


BARRIERS = {
    "the softmax over the queries": ("Softmax", BMM.replace("axis = 2", "axis = 1")),
    "the softmax over the batch": ("Softmax", BMM.replace("axis = 2", "axis = -3")),
    "another operator": ("CumSum", BMM.replace("Add(raw3, bias)", "CumSum(raw3, zero)")),
}


@pytest.mark.parametrize("name", BARRIERS)
def test_what_mixes_batches_stays_in_three_dimensions(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    op_type, body = BARRIERS[name]
    model = build(body)
    split, outcome = apply(SplitBatchedHeads(), model)
    assert outcome.rewrites == 1  # V was folded, so the product with it is split
    (node,) = (node for node in split.graph if node.op_type == op_type)
    assert len(node.outputs[0].shape or ()) == 3
    same_numbers(model, split, *CASES, atol=2e-6, rtol=1e-5)


KEPT = {
    "the batch is moved": SPELLINGS["the transposition of K alone"]
    .replace("perm = [0, 2, 1]", "perm = [1, 0, 2]")
    .replace("Reshape(t3, to_kt)", "Reshape(t3, four_keys)")
    .replace("MatMul(x, yt)", "Mul(x, yt)"),
    "nothing was folded": "flat = Flatten<axis = 2>(x)\n"
    "wide = Reshape(flat, to_x)\n half3 = Mul(wide, half)\n"
    "half4 = Reshape(half3, to_out)\n out = Mul(half4, half)\n",
}


@pytest.mark.parametrize("name", KEPT)
def test_the_rest_is_left_alone(build: Any, apply: Any, name: str) -> None:
    inputs = INPUTS
    if name == "the batch is moved":
        inputs = INPUTS.replace("b,", "2,").replace("q, 4", "4, 4").replace("k, 4", "4, 4")
    _, outcome = apply(SplitBatchedHeads(), build(KEPT[name], inputs=inputs))
    assert (outcome.rewrites, outcome.refusals) == (0, ())


@pytest.mark.parametrize("name", ["x", "y3", "t3", "raw", "bias"])
@pytest.mark.parametrize("unknown", ["rank", "sizes"])
def test_unknown_shapes_are_left_alone(build: Any, name: str, unknown: str) -> None:
    model = build(SPELLINGS["the product and a bias"])
    value = ir.convenience.create_value_mapping(model.graph)[name]
    value.shape = None if unknown == "rank" else ir.Shape([None] * len(value.shape or ()))
    before = [node.name for node in model.graph]
    SplitBatchedHeads()(model)
    after = [node.op_type for node in model.graph]
    assert "Reshape" in after
    if name in ("raw", "bias"):
        assert [node.name for node in model.graph] == before
