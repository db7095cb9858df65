"""Attention in every spelling exporters use becomes one operator; lookalikes are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.fuse_attention import FuseAttention
from fuselage.passes.normalize.infer_shapes import InferShapes

SCALE = 0.25  # 1 / sqrt(16)
CONSTANTS = {
    "one": np.float32(1),
    "fill": np.float32(-1e30),
    "axes": np.array([1, 2], np.int64),
    "root": np.float32(SCALE**0.5),
    "scale": np.float32(SCALE),
    "four": np.full((1, 1, 1, 1), 1 / SCALE, np.float32),
    "half": np.float32(0.5),
    "negative": np.float32(-SCALE),
    "none": np.float32(0),
    "table": np.array([1, 2], np.float32).reshape(1, 2, 1, 1),
}

# [batch, 1, s, s], additive; a real padding mask, as the exporters leave it.
MASK = """
    shown = Cast<to = 1>(padding)
    hidden = Sub(one, shown)
    dropped = Mul(hidden, fill)
    row4 = Unsqueeze(dropped, axes)
    mask = Add(row4, rows)
"""
SDPA = """
    qs = Mul(q, root)
    kt = Transpose<perm = [0, 1, 3, 2]>(k)
    ks = Mul(kt, root)
    scores = MatMul(qs, ks)
    shifted = Add(scores, mask)
    p = Softmax<axis = -1>(shifted)
    nan = IsNaN(p)
    guarded = Where(nan, none, p)
    y = MatMul(guarded, v)
"""
EAGER = """
    kt = Transpose<perm = [0, 2, 3, 1]>(kb)
    raw = MatMul(q, kt)
    scores = Mul(raw, scale)
    shifted = Add(scores, mask)
    p = Softmax<axis = 3>(shifted)
    y = MatMul(p, v)
"""


def swapped(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


SPELLINGS = {
    "sdpa": MASK + SDPA,
    "eager": MASK + EAGER,
    "scale left": MASK + swapped(EAGER, "Mul(raw, scale)", "Mul(scale, raw)"),
    "division": MASK + swapped(EAGER, "Mul(raw, scale)", "Div(raw, four)"),
    "mask left": MASK + swapped(EAGER, "Add(scores, mask)", "Add(mask, scores)"),
    "no mask": swapped(EAGER, "    shifted = Add(scores, mask)\n", "").replace(
        "(shifted)", "(scores)"
    ),
    "no scale, no mask": """
        kt = Transpose<perm = [0, 1, 3, 2]>(k)
        scores = MatMul(q, kt)
        p = Softmax(scores)
        y = MatMul(p, v)
    """,
    "scale on K before the transposition": """
        ks = Mul(k, scale)
        kt = Transpose<perm = [0, 1, 3, 2]>(ks)
        scores = MatMul(q, kt)
        p = Softmax(scores)
        y = MatMul(p, v)
    """,
    "a scale after the mask": MASK
    + swapped(EAGER, "Softmax<axis = 3>(shifted)", "Softmax<axis = 3>(late)").replace(
        "    p =", "    late = Div(shifted, half)\n    p ="
    ),
    "a bias, then a mask": MASK
    + swapped(EAGER, "Add(scores, mask)", "Add(biased, mask)").replace(
        "    shifted", "    biased = Add(scores, bias)\n    shifted"
    ),
    "a bias that is scaled, on the left": MASK
    + swapped(EAGER, "Add(scores, mask)", "Add(half_bias, masked)").replace(
        "    shifted",
        "    masked = Add(scores, mask)\n    half_bias = Mul(bias, half)\n    shifted",
    ),
    "a number is added": swapped(EAGER, "Add(scores, mask)", "Add(scores, one)"),
    "a number a key is added": MASK + swapped(EAGER, "Add(scores, mask)", "Add(scores, tilt)"),
    "a number a query is added": swapped(EAGER, "Add(scores, mask)", "Add(scores, rows)"),
    "a number a head is added": swapped(EAGER, "Add(scores, mask)", "Add(scores, table)"),
    "scales everywhere": MASK
    + swapped(
        swapped(SDPA, "MatMul(qs, ks)", "MatMul(qs, ks)\n scaled = Div(scores, half)"),
        "Add(scores, mask)",
        "Add(scaled, mask)",
    ),
}
FACTORS = {
    "no scale, no mask": 1.0,
    "scales everywhere": SCALE / 0.5,
    "a scale after the mask": SCALE / 0.5,
}


@pytest.fixture
def build(parse: Any) -> Any:
    """build(body): q, k, v [batch, 2, s, 16], kb [batch, s, 2, 16], padding; shapes inferred."""

    def make(
        body: str,
        v: str = "batch, 2, s, 16",
        k: str = "batch, 2, s, 16",
        q: str = "batch, 2, s, 16",
    ) -> ir.Model:
        inputs = f"""float[{q}] q, float[{k}] k, float[batch, s, 2, 16] kb,
            float[{v}] v, int64[batch, s] padding, float[1, 1, s, 1] rows,
            float[1, 2, s, s] bias, float[s] tilt"""
        model = parse(
            f"attention ({inputs}) => (float[batch, 2, s, o] y) {{ {body} }}", **CONSTANTS
        )
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, s: int) -> dict[str, Any]:
    random = np.random.default_rng(batch * 10 + s)
    keys = random.normal(0, 1, (batch, 2, s, 16)).astype(np.float32)
    lengths = s - np.arange(batch) % s
    return {
        "q": random.normal(0, 1, keys.shape).astype(np.float32),
        "k": keys,
        "kb": np.ascontiguousarray(keys.transpose(0, 2, 1, 3)),
        "v": random.normal(0, 1, keys.shape).astype(np.float32),
        "padding": (np.arange(s) < lengths[:, None]).astype(np.int64),
        "rows": random.normal(0, 1, (1, 1, s, 1)).astype(np.float32),
        "tilt": random.normal(0, 1, s).astype(np.float32),
        "bias": random.normal(0, 1, (1, 2, s, s)).astype(np.float32),
    }


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_attention(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(SPELLINGS[name])
    after, outcome = apply(FuseAttention(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    kinds = [node.op_type for node in after.graph]
    assert kinds.count("Attention") == 1
    assert not {"Softmax", "MatMul", "IsNaN"} & set(kinds)
    assert kinds.count("Expand") == name.startswith("a number")  # ORT broadcasts no rows
    fused = next(node for node in after.graph if node.op_type == "Attention")
    assert fused.attributes["scale"].as_float() == pytest.approx(FACTORS.get(name, SCALE))
    assert fused.attributes["is_causal"].as_int() == 0
    assert after.graph.outputs[0].name == "y"
    same_numbers(model, after, feeds(3, 7), feeds(1, 1), atol=2e-6, rtol=1e-5)
    again, second = apply(FuseAttention(), after)
    assert not second.modified
    assert [node.op_type for node in again.graph] == kinds


REFUSED = {
    "softmax over the queries": (
        swapped(SDPA, "axis = -1", "axis = 2"),
        "softmax is over axis 2, not the last of 4",
    ),
    "softmax over the heads": (
        swapped(SDPA, "axis = -1", "axis = 1"),
        "softmax is over axis 1, not the last of 4",
    ),
    "scores from elsewhere": (
        "p = Softmax(bias)\n y = MatMul(p, v)",
        r"the scores come from the value 'bias', not from MatMul\(Q, K\^T\)",
    ),
    "scores from a sum": (
        "kt = Transpose<perm = [0, 1, 3, 2]>(k)\n raw = MatMul(q, kt)\n abs = Abs(raw)\n"
        "p = Softmax(abs)\n y = MatMul(p, v)",
        "the scores come from Abs 'n_abs'",
    ),
    "two products added": (
        "kt = Transpose<perm = [0, 1, 3, 2]>(k)\n raw = MatMul(q, kt)\n other = MatMul(k, kt)\n"
        "shifted = Add(raw, other)\n p = Softmax(shifted)\n y = MatMul(p, v)",
        "cannot tell scores from mask at Add 'n_shifted'",
    ),
    "a negative scale": (
        swapped(SPELLINGS["no mask"], "Mul(raw, scale)", "Mul(raw, negative)"),
        "the scale is -0.25, expected a positive one",
    ),
    "a scale of zero": (
        swapped(SPELLINGS["no mask"], "Mul(raw, scale)", "Mul(raw, none)"),
        "the scale is 0, expected a positive one",
    ),
    "a division by zero": (
        swapped(SPELLINGS["no mask"], "Mul(raw, scale)", "Div(raw, none)"),
        "Div 'n_scores' scales the scores by more than one number a row",
    ),
    "a guard that gives something else": (
        MASK + swapped(SDPA, "Where(nan, none, p)", "Where(nan, half, p)"),
        None,
    ),
    "a guard around another tensor": (
        MASK + swapped(SDPA, "IsNaN(p)", "IsNaN(shifted)"),
        None,
    ),
    "a choice that is no guard": (
        MASK + swapped(SDPA, "nan = IsNaN(p)", "nan = Cast<to = 9>(p)"),
        None,
    ),
    "a product of another domain": (
        MASK + swapped(SDPA, "y = MatMul(", "y = com.microsoft.MatMul("),
        None,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_lookalikes_are_refused_with_the_reason(build: Any, apply: Any, name: str) -> None:
    body, reason = REFUSED[name]
    body = MASK + body if "(scores, mask)" in body and "shown" not in body else body
    model = build(body)
    after, outcome = apply(FuseAttention(), model)
    assert not outcome.modified
    assert "Attention" not in [node.op_type for node in after.graph]
    if reason is None:  # not even a candidate
        assert outcome.refusals == ()
        return
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node) == ("fuse-attention", "n_y")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refusal.reason)


FULL = "batch, 2, s, 16"


@pytest.mark.parametrize(
    ("q", "k", "v", "reason"),
    [
        (FULL, "1, 2, s, 16", FULL, "the batch of Q is batch and that of K 1"),
        (FULL, "batch, 1, s, 16", FULL, "Q has 2 heads, K 1 and V 2"),
        (FULL, FULL, "1, 2, s, 16", "the batch of Q is batch and that of V 1"),
        (FULL, FULL, "batch, 1, s, 16", "Q has 2 heads, K 2 and V 1"),
        ("1, 2, s, 16", FULL, FULL, "the batch of Q is 1 and that of K batch"),
        (FULL, "other, 2, s, 16", FULL, "the batch of Q is batch and that of K other"),
        (FULL, FULL, "other, 2, s, 16", "that of V other: nothing says that they are equal"),
        (FULL, "3, 2, s, 16", FULL, "the batch of Q is batch and that of K 3"),
        ("?, 2, s, 16", FULL, FULL, "the batch of Q is [?] and that of K batch"),
        ("batch, 1, s, 16", FULL, FULL, "Q has 1 heads, K 2 and V 2"),
        ("batch, h, s, 16", FULL, FULL, "Q has None heads, K 2 and V 2"),
        (FULL, "batch, h, s, 16", FULL, "Q has 2 heads, K None and V 2"),
        (FULL, FULL, "2, s, 16", r"V has shape \[2,s,16\], expected 4 dimensions"),
    ],
)
def test_broadcast_batches_and_heads_are_refused(
    build: Any, apply: Any, q: str, k: str, v: str, reason: str
) -> None:
    model = build(SPELLINGS["no scale, no mask"], v=v, k=k, q=q)
    _, outcome = apply(FuseAttention(), model)
    assert not outcome.modified
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(outcome.refusals[0].reason)


def test_one_head_and_a_batch_of_one_are_no_broadcast(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    single = "1, 1, s, 16"
    model = build(SPELLINGS["no scale, no mask"], v=single, k=single, q=single)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    one = {name: array[:1, :1] if array.ndim == 4 else array for name, array in feeds(1, 5).items()}
    one |= {name: feeds(1, 5)[name] for name in ("kb", "bias", "rows", "tilt")}
    same_numbers(model, after, one, atol=2e-6, rtol=1e-5)


ORDERS = {
    "b, h, s, d": ((0, 1, 3, 2), "float[batch, 2, s, 16]", (0, 1, 2, 3), 0),
    "b, s, h, d": ((0, 2, 3, 1), "float[batch, s, 2, 16]", (0, 2, 1, 3), 1),
    "s, b, h, d": ((1, 2, 3, 0), "float[s, batch, 2, 16]", (2, 0, 1, 3), 1),
    "b, d, h, s": ((0, 2, 1, 3), "float[batch, 16, 2, s]", (0, 3, 1, 2), 1),
    "b, h, d, s": (None, "float[batch, 2, 16, s]", (0, 1, 3, 2), 1),
}


@pytest.mark.parametrize("order", ORDERS)
def test_keys_come_in_any_order_of_axes(
    parse: Any, apply: Any, same_numbers: Any, order: str
) -> None:
    permutation, key, from_bhsd, transpositions = ORDERS[order]
    transpose = f"kt = Transpose<perm = {list(permutation)}>(ks)" if permutation else ""
    model = parse(
        f"""attention (float[batch, 2, s, 16] q, {key} k, float[batch, 2, s, 16] v)
            => (float[batch, 2, s, 16] y)
            {{ {"ks" if permutation else "kt"} = Mul(k, scale)\n {transpose}
               scores = MatMul(q, kt)\n p = Softmax(scores)\n y = MatMul(p, v) }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = (node for node in after.graph if node.op_type == "Attention")
    assert node.attributes["scale"].as_float() == SCALE
    assert str(node.inputs[1].shape) == "[batch,2,s,16]"
    assert node.inputs[1].dtype == ir.DataType.FLOAT
    assert [n.op_type for n in after.graph].count("Transpose") == transpositions
    for batch, s in ((3, 7), (1, 1), (2, 3)):
        case = {name: feeds(batch, s)[name] for name in "qkv"}
        case["k"] = np.ascontiguousarray(case["k"].transpose(from_bhsd))
        same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


LARGER = r"the mask of shape \[.*\] is larger than Q of shape"
LARGER_MASKS = {
    "batch": ("1, 2, s, 16", "batch, 1, s, s", LARGER),
    "heads": ("batch, 1, s, 16", "batch, 2, s, s", LARGER),
    "rows": ("batch, 2, 1, 16", "batch, 1, s, 1", LARGER),
    "keys": ("batch, 2, 1, 16", "batch, 1, 1, s", "but there is 1 key"),
    "perhaps the batch": ("batch, 2, s, 16", "rows, 1, s, s", "is batch and that of the mask rows"),
    "a fixed batch": ("batch, 2, s, 16", "4, 1, s, s", "is batch and that of the mask 4"),
}


@pytest.mark.parametrize("axis", LARGER_MASKS)
def test_scores_are_not_broadcast_to_a_larger_mask(parse: Any, apply: Any, axis: str) -> None:
    q, mask, reason = LARGER_MASKS[axis]
    model = parse(
        f"""attention (float[{q}] q, float[{q}] k, float[{q}] v, float[{mask}] mask)
            => (float[batch, 2, s, 16] y)
            {{ kt = Transpose<perm = [0, 1, 3, 2]>(k)
               scores = MatMul(q, kt)
               shifted = Add(scores, mask)
               p = Softmax(shifted)
               y = MatMul(p, v) }}"""
    )
    InferShapes()(model)
    _, outcome = apply(FuseAttention(), model)
    assert not outcome.modified
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(outcome.refusals[0].reason)


def test_batches_of_two_names_are_one_when_an_operator_needs_them_equal(
    parse: Any, apply: Any, same_numbers: Any
) -> None:
    """The cache is joined with K and V, which fails for another batch."""
    model = parse(
        """attention (float[b, 2, s, 16] q, float[b, 2, s, 16] k, float[a, 2, t, 16] past)
            => (float[b, 2, s, 16] y)
            { all = Concat<axis = 2>(past, k)
              near = Tanh(past)
              kt = Transpose<perm = [0, 1, 3, 2]>(near)
              asked = Tanh(q)
              scores = MatMul(asked, kt)
              p = Softmax(scores)
              y = MatMul(p, near) }""",
        **CONSTANTS,
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.refusals == ()
    assert outcome.rewrites == 1
    case = {"q": feeds(3, 5)["q"], "k": feeds(3, 5)["k"], "past": feeds(3, 7)["k"]}
    same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


def test_one_key_head_serves_all_queries(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(SPELLINGS["no scale, no mask"], v="batch, 1, s, 16", k="batch, 1, s, 16")
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    case = feeds(3, 5)
    case |= {"k": case["k"][:, 1:], "v": case["v"][:, :1]}
    same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["q", "v", "mask"])
def test_operands_of_unknown_rank_are_refused(build: Any, name: str) -> None:
    model = build(MASK + EAGER)
    ir.convenience.create_value_mapping(model.graph)[name].shape = None
    outcome = FuseAttention()(model)
    assert not outcome.modified
    assert "has shape None, expected" in outcome.refusals[0].reason


@pytest.mark.parametrize("shape", ["batch, 1, 1, s", "1, 1, s", "1, s"])
def test_a_mask_with_one_row_gets_a_row_a_query(
    parse: Any, apply: Any, same_numbers: Any, shape: str
) -> None:
    model = parse(
        f"""attention (float[batch, 2, s, 16] q, float[batch, 2, s, 16] k,
            float[batch, 2, s, 16] v, float[{shape}] mask) => (float[batch, 2, s, 16] y)
            {{ {SPELLINGS["no scale, no mask"]} }}""".replace(
            "Softmax(scores)", "Softmax(shifted)"
        ).replace("p = ", "shifted = Add(scores, mask)\n p = ")
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph].count("Expand") == 1
    (size,) = [node for node in after.graph if node.op_type == "Shape"]
    assert size.inputs[0].name == "mask"  # so that the mask depends on nothing but its source
    for batch, s in ((3, 7), (1, 5), (1, 1)):
        one = feeds(batch, s)
        padding = one["padding"] if "batch" in shape else one["padding"][:1]
        row = np.where(padding, 0, -1e30).astype(np.float32)
        mask = row.reshape([*(1,) * shape.count(","), s] if "b" not in shape else (-1, 1, 1, s))
        case = {name: one[name] for name in "qkv"} | {"mask": mask}
        same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


def test_a_row_for_other_queries_takes_their_length(
    parse: Any, apply: Any, same_numbers: Any
) -> None:
    model = parse(
        """cross (float[batch, 2, s, 16] q, float[batch, 2, t, 16] k, float[batch, 2, t, 16] v,
            float[batch, 1, 1, t] mask) => (float[batch, 2, s, 16] y)
        { kt = Transpose<perm = [0, 1, 3, 2]>(k)
          scores = MatMul(q, kt)
          shifted = Add(scores, mask)
          p = Softmax(shifted)
          y = MatMul(p, v) }"""
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    keys = feeds(3, 5)
    mask = np.where(keys["padding"], 0, -1e30).astype(np.float32)[:, None, None, :]
    case = {"q": feeds(3, 7)["q"], "k": keys["k"], "v": keys["v"], "mask": mask}
    same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


def test_probabilities_that_others_read_stay(parse: Any, apply: Any, same_numbers: Any) -> None:
    model = parse(
        f"""attention (float[batch, 2, s, 16] q, float[batch, 2, s, 16] k,
            float[batch, 2, s, 16] v) => (float[batch, 2, s, 16] y, float[batch, 2, s, s] p)
            {{ {SPELLINGS["no scale, no mask"]} }}"""
    )
    InferShapes()(model)
    after, outcome = apply(FuseAttention(), model)
    assert outcome.rewrites == 1
    case = {name: feeds(2, 5)[name] for name in "qkv"}
    same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


def test_native_attention_is_no_candidate(parse: Any, apply: Any) -> None:
    model = parse(
        """attention (float[batch, 2, s, 16] q, float[batch, 2, s, 16] k, float[batch, 2, s, 16] v)
        => (float[batch, 2, s, 16] y) { y = Attention(q, k, v) }"""
    )
    _, outcome = apply(FuseAttention(), model)
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_older_opsets_are_refused(build: Any) -> None:
    model = build(SPELLINGS["eager"])
    model.opset_imports[""] = 22
    with pytest.raises(ir.passes.PreconditionError) as caught:
        FuseAttention()(model)
    assert "emits operators of opset 23, but the graph imports opset 22" in str(
        caught.value.__cause__
    )
