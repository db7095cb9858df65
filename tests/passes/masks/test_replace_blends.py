"""A choice that is spelled as a sum of products becomes a Where; other sums stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.fuse_attention import FuseAttention
from fuselage.passes.masks.read import attention_mask
from fuselage.passes.masks.replace_blends import ReplaceBlends
from fuselage.passes.masks.simplify_attention_mask import SimplifyAttentionMask
from fuselage.passes.normalize.infer_shapes import InferShapes

CONSTANTS = {
    "one": np.float32(1),
    "two": np.float32(2),
    "fill": np.float32(-1e4),
    "weight": np.float32(1e4),
    "lowest": np.finfo(np.float32).min,
    "table": np.tril(np.ones((9, 9), np.float32))[None, None],
    "grey": np.full((1, 1, 9, 9), 0.5, np.float32),
    "ends": np.array([5, 5]),
    "v0": np.array([0]),
    "v2": np.array([2]),
    "v3": np.array([3]),
    "v23": np.array([2, 3]),
    "v12": np.array([1, 2]),
    "starts": np.array([0, 0]),
}
CUT = "b = Slice({}, starts, ends, v23)\n c = Sub(one, b)\n"
REST = "kept = Mul(x, b)\n hidden = Mul(c, fill)\n y = Add(kept, hidden)"
SPELLINGS = {
    "as GPT has it": CUT.format("table") + REST,
    "the other way round": CUT.format("table")
    + "kept = Mul(b, x)\n hidden = Mul(fill, c)\n y = Add(hidden, kept)",
    "a difference": CUT.format("table")
    + "kept = Mul(x, b)\n hidden = Mul(c, weight)\n y = Sub(kept, hidden)",
    "a boolean": "b = Cast<to = 1>(seen)\n c = Sub(one, b)\n" + REST,
}
KEPT = {
    "shades of grey": CUT.format("grey") + REST,
    "a mask of the caller": "b = Identity(m)\n c = Sub(one, b)\n" + REST,
    "two less": CUT.format("table").replace("one", "two") + REST,
    "another mask": CUT.format("table") + REST.replace("Mul(x, b)", "Mul(x, m)"),
    "the other difference": CUT.format("table")
    + "kept = Mul(x, b)\n hidden = Mul(c, weight)\n y = Sub(hidden, kept)",
    "many numbers": CUT.format("table") + REST.replace("Mul(c, fill)", "Mul(c, m)"),
    "no mask at all": "y = Add(x, m)",
}


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str) -> ir.Model:
        model: ir.Model = parse(
            f"""blend (float[n, 2, 5, 5] x, float[1, 1, 5, 5] m, bool[n, 1, 5, 5] seen)
                => (float[n, 2, 5, 5] y) {{ {body} }}""",
            **CONSTANTS,
        )
        InferShapes()(model)
        return model

    return make


def feeds(model: ir.Model) -> dict[str, Any]:
    random = np.random.default_rng(1)
    made = {
        "x": random.normal(size=(3, 2, 5, 5)).astype(np.float32),
        "m": random.random((1, 1, 5, 5)).astype(np.float32),
        "seen": random.random((3, 1, 5, 5)) < 0.5,
    }
    return {value.name: made[value.name] for value in model.graph.inputs if value.name in made}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_blend_of_zeros_and_ones_is_a_choice(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(SPELLINGS[name])
    after, outcome = apply(ReplaceBlends(), model)
    assert outcome.rewrites == 1
    kinds = [node.op_type for node in after.graph]
    assert kinds[-2:] == ["Cast", "Where"]
    assert not {"Mul", "Sub", "Add"} & set(kinds)
    same_numbers(model, after, feeds(model), atol=0, rtol=0)
    assert not apply(ReplaceBlends(), after)[1].modified


@pytest.mark.parametrize("name", KEPT)
def test_other_sums_stay(build: Any, apply: Any, name: str) -> None:
    model = build(KEPT[name])
    _, outcome = apply(ReplaceBlends(), model)
    assert not outcome.modified


def test_the_attention_of_gpt_is_fused(parse: Any, apply: Any, run: Any) -> None:
    """Causal by a blend with -1e4, and a padding mask of the lowest number, which hides it."""
    model = parse(
        """gpt (float[n, 2, s, 4] q, float[n, 2, s, 4] k, float[n, 2, s, 4] v, int64[n, s] padding)
           => (float[n, 2, s, 4] y) {
           kt = Transpose<perm = [0, 1, 3, 2]>(k)
           w = MatMul(q, kt)
           s1 = Shape<start = 2, end = 3>(w)
           rows = Slice(table, v0, s1, v2)
           b = Slice(rows, v0, s1, v3)
           kept = Mul(w, b)
           c = Sub(one, b)
           hidden = Mul(c, fill)
           causal = Add(kept, hidden)
           row = Unsqueeze(padding, v12)
           token = Cast<to = 1>(row)
           none = Sub(one, token)
           pad = Mul(none, lowest)
           scores = Add(causal, pad)
           p = Softmax(scores)
           y = MatMul(p, v) }""",
        **CONSTANTS,
    )
    InferShapes()(model)
    after = model
    for step in (ReplaceBlends(), FuseAttention(), InferShapes(), SimplifyAttentionMask()):
        after, outcome = apply(step, after)
        assert outcome.refusals == ()
    node = after.graph[-1]
    assert node.op_type == "Attention"
    mask = attention_mask(node)
    assert mask is not None
    assert str(mask.meaning) == "padding by padding, causal"
    random = np.random.default_rng(2)
    case: dict[str, Any] = {
        name: random.normal(size=(3, 2, 7, 4)).astype(np.float32) for name in "qkv"
    }
    case["padding"] = (np.arange(7) < np.array([[7], [4], [0]])).astype(np.int64)
    np.testing.assert_allclose(run(after, case)["y"], run(model, case)["y"], atol=2e-6, rtol=1e-5)
