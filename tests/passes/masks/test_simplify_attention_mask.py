"""Every spelling of a mask becomes the canonical chain of its meaning; numbers are eager's."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.masks.meaning import Mask
from fuselage.passes.masks.read import attention_mask
from fuselage.passes.masks.simplify_attention_mask import SimplifyAttentionMask
from fuselage.passes.normalize.infer_shapes import InferShapes

SIZE = 8
PADDED_CHAIN = ["Cast", "Unsqueeze", "Where", "Shape", "Concat", "Expand", "Attention"]
CONSTANTS = {
    "f0": np.float32(0),
    "quarter": np.float32(0.25),
    "f1": np.float32(1),
    "weak": np.float32(-10000),
    "half_lowest": np.float32(-65504),
    "billion": np.float32(-1e9),
    "infinite": np.float32(-np.inf),
    "fill": np.float32(-1e38),
    "lowest": np.finfo(np.float32).min,
    "yes": np.array(True),
    "no": np.array(False),
    "i0": np.int64(0),
    "i1": np.int64(1),
    "i2": np.int64(2),
    "i4096": np.int64(4096),
    "i4097": np.int64(4097),
    "axes12": np.array([1, 2], np.int64),
    "axes13": np.array([1, 3], np.int64),
    "a0": np.array([0], np.int64),
    "a012": np.array([0, 1, 2], np.int64),
    "a013": np.array([0, 1, 3], np.int64),
    "a123": np.array([1, 2, 3], np.int64),
    "a023": np.array([0, 2, 3], np.int64),
    "last": np.array([-1], np.int64),
    "one": np.array([1], np.int64),
    "ones": np.array([1, 1], np.int64),
    "window": np.int64(64),
    "wide": np.int64(1500),
    "huge": np.int64(5000),
    "fwindow": np.float32(64),
    "slope": np.array([0.5, 0.25], np.float32).reshape(1, 2, 1, 1),
    "pad_id": np.int64(4711),
    "band": (np.abs(np.subtract.outer(np.arange(100), np.arange(100))) <= 40)[None, None],
    "triangle": np.tril(np.ones((128, 128), bool))[None, None],
    "table": np.random.default_rng(0).normal(0, 1, (2, 300)).astype(np.float32),
    "upper": np.int64(1),
}

SIZES = """
    b = Shape<start = 0, end = 1>(ids)
    s = Shape<start = 1, end = 2>(ids)
    b0 = Squeeze(b)
    s0 = Squeeze(s)
    keys = Range(i0, s0, i1)
    rows = Range(i0, b0, i1)
    k4 = Unsqueeze(keys, a012)
    q4 = Unsqueeze(keys, a013)
    b4 = Unsqueeze(rows, a123)
"""
FULL = "full = Concat<axis = 0>(b, one, s, s)\n"
PADDED = SIZES + FULL + "shown = Cast<to = 9>(padding)\n row = Unsqueeze(shown, axes12)\n"

PADDING = {
    "additive, weak fill": """
        number = Cast<to = 1>(padding)
        hidden = Sub(f1, number)
        row = Unsqueeze(hidden, axes12)
        mask = Mul(row, weak)
    """,
    "where": PADDED + "mask = Where(row, f0, lowest)",
    "where, inverted": PADDED + "hidden = Not(row)\n mask = Where(hidden, lowest, f0)",
    "where and expand": PADDED + "wide4 = Expand(row, full)\n mask = Where(wide4, f0, lowest)",
    "bool": PADDED + "mask = Expand(row, full)",
    "bool, and always true": PADDED
    + "ge = GreaterOrEqual(k4, i0)\n and = And(row, ge)\n both = And(and, yes)\n"
    + "mask = Expand(both, full)",
    "gathernd": SIZES
    + """
        shown = Cast<to = 9>(padding)
        common = Max(b4, k4)
        shape4 = Shape(common)
        bs = Expand(b4, shape4)
        ks = Expand(k4, shape4)
        b5 = Unsqueeze(bs, last)
        k5 = Unsqueeze(ks, last)
        pairs = Concat<axis = -1>(b5, k5)
        row = GatherND(shown, pairs)
        ge = GreaterOrEqual(q4, i0)
        both = And(row, ge)
        mask = Where(both, f0, lowest)
    """,
    "flatten and gather": SIZES
    + """
        flat2 = Flatten<axis = 0>(padding)
        flat = Squeeze(flat2, a0)
        start = Mul(b4, s0)
        index = Add(start, k4)
        row = Gather(flat, index)
        shown = Cast<to = 9>(row)
        mask = Where(shown, f0, fill)
    """,
    "equal to one": PADDED + "eq = Equal(padding, i1)\n e4 = Unsqueeze(eq, axes12)\n"
    "mask = Where(e4, f0, fill)",
}

BAND = SIZES + FULL + "gap = Sub(q4, k4)\n far = Abs(gap)\n"
ROW = "shown = Cast<to = 9>(padding)\n row = Unsqueeze(shown, axes12)\n"
HIDE = "mask = Where(both, f0, lowest)"
MEANT: dict[str, tuple[str, dict[str, Any]]] = {
    "causal by positions": (
        BAND + ROW + "past = LessOrEqual(k4, q4)\n both = And(row, past)\n" + HIDE,
        {"ahead": 0},
    ),
    "causal by a table": (
        BAND + ROW + "cut = Concat<axis = 0>(one, one, s, s)\n"
        "zeros4 = Concat<axis = 0>(a0, a0, a0, a0)\n part = Slice(triangle, zeros4, cut)\n"
        "both = And(row, part)\n" + HIDE,
        {"ahead": 0},
    ),
    "causal by a masked fill of infinity": (
        BAND + ROW + "past = LessOrEqual(k4, q4)\n both = And(row, past)\n"
        "hidden = Not(both)\n mask = Where(hidden, infinite, f0)",
        {"ahead": 0},
    ),
    "causal, boolean": (
        BAND + ROW + "past = LessOrEqual(k4, q4)\n mask = And(row, past)",
        {"ahead": 0},
    ),
    "a window both ways": (
        BAND + ROW + "near = LessOrEqual(far, window)\n both = And(row, near)\n" + HIDE,
        {"ahead": 64, "back": 64},
    ),
    "a window in floats": (
        BAND + ROW + "farf = Cast<to = 1>(far)\n near = Less(farf, fwindow)\n"
        "both = And(row, near)\n" + HIDE,
        {"ahead": 63, "back": 63},
    ),
    "a window from a filled tensor": (
        BAND + ROW + "size = ConstantOfShape<value = int64[1] {64}>(one)\n"
        "near = LessOrEqual(far, size)\n both = And(row, near)\n" + HIDE,
        {"ahead": 64, "back": 64},
    ),
    "a causal window of 4096": (
        BAND + ROW + "first = Sub(q4, i4096)\n late = Greater(k4, first)\n"
        "past = LessOrEqual(k4, q4)\n near = And(late, past)\n both = And(row, near)\n" + HIDE,
        {"ahead": 0, "back": 4095},
    ),
    "a window from a table": (
        BAND + ROW + "cut = Concat<axis = 0>(one, one, s, s)\n"
        "zeros4 = Concat<axis = 0>(a0, a0, a0, a0)\n part = Slice(band, zeros4, cut)\n"
        "both = And(row, part)\n" + HIDE,
        {"ahead": 40, "back": 40},
    ),
    "padding of keys and queries": (
        SIZES + "kp = Unsqueeze(padding, axes12)\n qp = Unsqueeze(padding, axes13)\n"
        "product = Mul(kp, qp)\n both = Cast<to = 9>(product)\n" + HIDE,
        {"pads_queries": True},
    ),
}


def model_of(parse: Any, body: str, *, extra: str = "", t: str = "float", causal: int = 0) -> Any:
    attention = "q_num_heads = 2, kv_num_heads = 2" + (f", is_causal = {causal}" if causal else "")
    model = parse(
        f"""masked (int64[batch, sequence] ids, int64[batch, sequence] padding,
            {t}[batch, sequence, 16] q, {t}[batch, sequence, 16] k,
            {t}[batch, sequence, 16] v {extra}) => ({t}[batch, sequence, 16] y)
            {{ {body}
            y = Attention<{attention}>(q, k, v, mask) }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    return model


def feeds(model: ir.Model, batch: int, sequence: int) -> dict[str, Any]:
    """Random tensors; row i has i tokens of padding, and the last row no token when batch > 2."""
    random = np.random.default_rng(batch * 100 + sequence)
    lengths = sequence - np.arange(batch) % sequence
    made: dict[str, Any] = {
        "ids": random.integers(0, 9, (batch, sequence)),
        "padding": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
    }
    if batch > 2:
        made["padding"][-1] = 0
    for value in model.graph.inputs:
        if value.name in ("q", "k", "v"):
            assert value.dtype is not None
            shape = (batch, sequence, 2 * SIZE)
            made[value.name] = random.normal(0, 1, shape).astype(value.dtype.numpy())
    return {name: made[name] for name in made if name in {v.name for v in model.graph.inputs}}


def eager(one: dict[str, Any], kept: Any, bias: Any = 0.0) -> Any:
    """softmax(Q K^T / sqrt(d) + bias, fill where not kept) V in float64, two heads."""
    q, k, v = (
        one[name].reshape(*one[name].shape[:2], 2, SIZE).transpose(0, 2, 1, 3).astype(np.float64)
        for name in "qkv"
    )
    scores = np.where(kept, q @ k.transpose(0, 1, 3, 2) / SIZE**0.5 + bias, -1e38)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    return y.transpose(0, 2, 1, 3).reshape(one["q"].shape)


def used(model: ir.Model) -> list[str]:
    """Operators that the outputs depend on, in order."""
    reached = {value.producer() for value in model.graph.outputs}
    for node in reversed(tuple(model.graph)):
        if node in reached:
            reached |= {value.producer() for value in node.inputs if value is not None}
    return [node.op_type for node in model.graph if node in reached]


def attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Attention"]


def read(model: ir.Model) -> list[str | None]:
    """What every attention's mask says."""
    found = [attention_mask(node) for node in attentions(model)]
    return [
        None if mask is None else f"{mask.meaning}{'' if mask.bias is None else ' + bias'}"
        for mask in found
    ]


@pytest.mark.parametrize("name", PADDING)
def test_padding_in_any_spelling_becomes_canonical(
    parse: Any, apply: Any, run: Any, name: str
) -> None:
    model = model_of(parse, PADDING[name])
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert used(after) == PADDED_CHAIN
    assert read(after) == ["padding by padding"]
    mask = attentions(after)[0].inputs[3]
    assert mask is not None
    assert (mask.dtype, str(mask.shape)) == (ir.DataType.FLOAT, "[batch,1,sequence,sequence]")
    for shape in ((3, 7), (1, 1), (2, 5)):
        one = feeds(model, *shape)
        kept = one["padding"].astype(bool)[:, None, None, :]
        np.testing.assert_allclose(run(after, one)["y"], eager(one, kept), atol=2e-6, rtol=1e-5)
    _, second = apply(SimplifyAttentionMask(), after)
    assert (second.modified, second.refusals) == (False, ())


@pytest.mark.parametrize("name", MEANT)
def test_other_masks_become_the_chain_of_their_meaning(
    parse: Any, apply: Any, run: Any, name: str
) -> None:
    body, meaning = MEANT[name]
    model = model_of(parse, body)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    mask = Mask(padding=after.graph.inputs[1], **meaning)
    assert read(after) == [str(mask)]
    for shape in ((4, 7), (1, 1), (2, 90)):
        one = feeds(model, *shape)
        kept = mask.keeps(one["padding"], shape[1])
        np.testing.assert_allclose(run(after, one)["y"], eager(one, kept), atol=2e-6, rtol=1e-5)
    _, second = apply(SimplifyAttentionMask(), after)
    assert (second.modified, second.refusals) == (False, ())


TRIANGLE = (
    PADDED + "cut = Concat<axis = 0>(s, s)\n fills = Expand(lowest, cut)\n"
    "high = Trilu<upper = 1>(fills, upper)\n pad = Where(row, f0, lowest)\n"
)
SUMS = {
    "padding and causal": "mask = Add(pad, high)",
    "causal and padding": "mask = Add(high, pad)",
    "a row a query": "sum = Add(pad, high)\n mask = Expand(sum, full)",
    "a causal fill": "past = LessOrEqual(k4, q4)\n seen = Where(past, f0, lowest)\n"
    "mask = Add(seen, pad)",
    "padding in both": "past = LessOrEqual(k4, q4)\n both = And(row, past)\n"
    "seen = Where(both, f0, lowest)\n mask = Add(seen, high)",
}


@pytest.mark.parametrize("name", SUMS)
def test_masks_that_are_added_up_rank_what_they_hide(
    parse: Any, apply: Any, run: Any, name: str
) -> None:
    """A query without any key attends evenly to what one mask hides, not to what both do."""
    model = model_of(parse, TRIANGLE + SUMS[name])
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (found,) = read(after)
    assert found is not None
    assert found.startswith("padding by padding")
    assert found.endswith(" + bias")
    for shape in ((4, 7), (1, 1), (2, 90)):
        one = feeds(model, *shape)
        token = np.broadcast_to(one["padding"][:, None, None, :] > 0, (shape[0], 1, 1, shape[1]))
        past = np.tril(np.ones((shape[1], shape[1]), bool))
        some = (token & past).any(-1, keepdims=True)
        got = run(after, one)["y"]
        one["q"] *= some[:, 0]  # no score is seen beside a fill
        wanted = eager(one, np.where(some, token & past, past))
        np.testing.assert_allclose(got, wanted, atol=2e-6, rtol=1e-5)
    _, second = apply(SimplifyAttentionMask(), after)
    assert (second.modified, second.refusals) == (False, ())


@pytest.mark.parametrize("fill", ["weak", "billion"])
def test_a_weak_fill_vanishes_beside_the_lowest_number(
    parse: Any, apply: Any, run: Any, fill: str
) -> None:
    body = TRIANGLE + f"past = LessOrEqual(k4, q4)\n seen = Where(past, f0, {fill})\n"
    after, outcome = apply(SimplifyAttentionMask(), model_of(parse, body + "mask = Add(seen, pad)"))
    assert outcome.refusals == ()
    assert read(after) == ["padding by padding, causal"]
    one = feeds(after, 3, 6)
    even = np.tile(one["v"][2].astype(np.float64).mean(axis=0), (6, 1))
    np.testing.assert_allclose(run(after, one)["y"][2], even, atol=2e-6, rtol=0)


def test_a_choice_of_uneven_fills_is_refused(parse: Any, apply: Any) -> None:
    """A fill of -1e9 is above one of -1e38, which no chain of one fill says."""
    body = TRIANGLE + "past = LessOrEqual(k4, q4)\n mask = Where(past, pad, billion)"
    model = model_of(parse, body)
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert "has no key, and hidden keys are given -3.40282e+38 and -1e+09" in (
        outcome.refusals[0].reason
    )


@pytest.mark.parametrize("fill", ["weak", "half_lowest", "billion", "fill", "lowest", "infinite"])
@pytest.mark.parametrize("t", ["float", "float16"])
def test_a_fully_masked_row_attends_evenly_whatever_the_fill(
    parse: Any, apply: Any, run: Any, t: str, fill: str
) -> None:
    body = PADDED + (
        f"past = LessOrEqual(k4, q4)\n both = And(row, past)\n wide4 = Where(both, f0, {fill})\n"
        + ("mask = Identity(wide4)" if t == "float" else "mask = Cast<to = 10>(wide4)")
    )
    after, outcome = apply(SimplifyAttentionMask(), model_of(parse, body, t=t))
    assert outcome.refusals == ()
    one = feeds(after, 3, 6)
    even = one["v"][2].astype(np.float64).mean(axis=0)  # hidden by causality or not
    got = run(after, one)["y"][2]
    atol = 2e-6 if t == "float" else 2e-3
    np.testing.assert_allclose(got, np.tile(even, (6, 1)), atol=atol, rtol=0)


def test_a_mask_of_nothing_goes_away(parse: Any, apply: Any, same_numbers: Any) -> None:
    body = BAND + "all = GreaterOrEqual(k4, i0)\n wide4 = Expand(all, full)\n"
    model = model_of(parse, body + "mask = Where(wide4, f0, lowest)")
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, read(after), used(after)) == (1, ["no mask"], ["Attention"])
    assert len(attentions(after)[0].inputs) == 3
    same_numbers(model, after, feeds(model, 2, 5), atol=2e-6, rtol=1e-5)


def test_a_causal_mask_of_as_many_queries_as_keys_is_an_attribute(
    parse: Any, apply: Any, same_numbers: Any
) -> None:
    body = BAND + "past = LessOrEqual(k4, q4)\n wide4 = Expand(past, full)\n"
    model = model_of(parse, body + "mask = Where(wide4, f0, lowest)")
    after, _ = apply(SimplifyAttentionMask(), model)
    assert (read(after), used(after)) == (["causal"], ["Attention"])
    assert attentions(after)[0].attributes["is_causal"].as_int() == 1
    same_numbers(model, after, feeds(model, 2, 5), feeds(model, 1, 1), atol=2e-6, rtol=1e-5)


def test_the_attribute_and_the_mask_become_one(parse: Any, apply: Any, run: Any) -> None:
    model = model_of(parse, PADDED + "mask = Where(row, f0, lowest)", causal=1)
    after, _ = apply(SimplifyAttentionMask(), model)
    assert read(after) == ["padding by padding, causal"]
    assert attentions(after)[0].attributes["is_causal"].as_int() == 0
    one = feeds(model, 3, 5)
    kept = Mask(padding=after.graph.inputs[1], ahead=0).keeps(one["padding"], 5)
    np.testing.assert_allclose(run(after, one)["y"], eager(one, kept), atol=2e-6, rtol=1e-5)


DISTANCE = SIZES + FULL + ROW + "gap = Sub(k4, q4)\n far = Abs(gap)\n"
LEARNT = DISTANCE + "places = Squeeze(far, ones01)\n looked = Gather<axis = 1>(table, places)\n"
BIASED: dict[str, str] = {
    "a choice between the bias and a fill": LEARNT
    + "soft = Sin(looked)\n bias = Unsqueeze(soft, a0)\n mask = Where(row, bias, lowest)",
    "a fill where it is hidden": LEARNT
    + "soft = Sin(looked)\n bias = Unsqueeze(soft, a0)\n hid = Not(row)\n"
    "mask = Where(hid, lowest, bias)",
    "a sum": LEARNT + "soft = Sin(looked)\n bias = Unsqueeze(soft, a0)\n"
    "pad = Where(row, f0, lowest)\n mask = Add(bias, pad)",
    "no foreign operator": LEARNT + "bias = Unsqueeze(looked, a0)\n"
    "pad = Where(row, f0, lowest)\n mask = Add(pad, bias)",
}


@pytest.mark.parametrize("name", BIASED)
def test_a_bias_stays_and_its_mask_becomes_canonical(
    parse: Any, apply: Any, run: Any, name: str
) -> None:
    CONSTANTS["ones01"] = np.array([0, 1], np.int64)
    model = model_of(parse, BIASED[name])
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert read(after) == ["padding by padding + bias"]
    one = feeds(model, 3, 6)
    table = CONSTANTS["table"] if "foreign" in name else np.sin(CONSTANTS["table"])
    bias = table[:, np.abs(np.subtract.outer(np.arange(6), np.arange(6)))][None]
    kept = one["padding"].astype(bool)[:, None, None, :]
    np.testing.assert_allclose(run(after, one)["y"], eager(one, kept, bias), atol=2e-6, rtol=1e-5)
    _, second = apply(SimplifyAttentionMask(), after)
    assert (second.modified, second.refusals) == (False, ())


def test_a_bias_without_a_mask_is_left_alone(parse: Any, apply: Any) -> None:
    CONSTANTS["ones01"] = np.array([0, 1], np.int64)
    model = model_of(parse, LEARNT + "soft = Sin(looked)\n mask = Unsqueeze(soft, a0)")
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert not outcome.modified
    assert outcome.refusals[0].reason == "the mask is computed with Sin"


CACHED = """cached (int64[batch, new] ids, int64[batch, {total}] padding,
    float[batch, 2, past, 8] old, float[batch, 2, new, 8] q, float[batch, 2, new, 8] k,
    float[batch, 2, new, 8] v)
    => (float[batch, 2, new, 8] y)
{{  n = Shape<start = 1, end = 2>(ids)
    p = Shape<start = 2, end = 3>(old)
    t = Add(n, p)
    n0 = Squeeze(n)
    p0 = Squeeze(p)
    t0 = Squeeze(t)
    here = Range(i0, n0, i1)
    places = Add(here, {offset})
    q4 = Unsqueeze(places, a013)
    keys = Range(i0, t0, i1)
    k4 = Unsqueeze(keys, a012)
    shown = Cast<to = 9>(padding)
    row = Unsqueeze(shown, axes12)
    past_only = LessOrEqual(k4, q4)
    first = Sub(q4, i2)
    near = GreaterOrEqual(k4, first)
    {band}
    both = And(row, seen)
    mask = Where(both, f0, lowest)
    {attention} }}"""
CONCAT = """whole_k = Concat<axis = 2>(old, k)
    whole_v = Concat<axis = 2>(old, v)
    y = Attention(q, whole_k, whole_v, mask)"""
INSIDE = "y, kk, vv = Attention(q, k, v, mask, old, old)"


def cached(parse: Any, **changed: str) -> ir.Model:
    parts = {
        "total": "total",
        "offset": "p0",
        "band": "seen = Identity(past_only)",
        "attention": CONCAT,
    }
    model: ir.Model = parse(CACHED.format(**parts | changed), **CONSTANTS)
    InferShapes()(model)
    return model


@pytest.mark.parametrize("attention", [CONCAT, INSIDE], ids=["concatenated", "by the operator"])
@pytest.mark.parametrize("total", ["total", "all_keys"])
@pytest.mark.parametrize(
    ("band", "limits"),
    [
        ("seen = Identity(past_only)", {"ahead": 0}),
        ("seen = And(past_only, near)", {"ahead": 0, "back": 2}),
    ],
    ids=["causal", "window"],
)
def test_queries_stand_behind_the_cached_keys(
    parse: Any, apply: Any, run: Any, attention: str, total: str, band: str, limits: dict[str, int]
) -> None:
    model = cached(parse, attention=attention, band=band, total=total)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert outcome.refusals == ()
    mask = Mask(padding=after.graph.inputs[1], **limits)
    assert read(after) == [str(mask)]
    random = np.random.default_rng(0)
    for batch, past, new in ((3, 4, 2), (1, 0, 1), (2, 0, 5), (2, 6, 1)):
        padding = random.integers(0, 2, (batch, past + new))
        padding[-1] = 0
        one = {"ids": random.integers(0, 9, (batch, new)), "padding": padding}
        for name in ("old", "q", "k", "v"):
            length = past if name == "old" else new
            one[name] = random.normal(0, 1, (batch, 2, length, 8)).astype(np.float32)
        keys, values = (np.concatenate([one["old"], one[name]], 2) for name in "kv")
        scores = one["q"].astype(np.float64) @ keys.transpose(0, 1, 3, 2) / 8**0.5
        scores = np.where(mask.keeps(padding, new), scores, -1e38)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        wanted = weights / weights.sum(-1, keepdims=True) @ values
        got = run(after, one)["y"]
        np.testing.assert_allclose(got, wanted, atol=2e-6, rtol=1e-5)


def test_the_attribute_counts_from_the_first_key(parse: Any, apply: Any) -> None:
    model = cached(parse, attention=CONCAT.replace("Attention(", "Attention<is_causal = 1>("))
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert read(after) == [None]
    assert outcome.refusals[0].reason == (
        "is_causal counts from the first key, but there are more keys than queries"
    )


def test_a_causal_mask_behind_a_cache_is_no_attribute(parse: Any, apply: Any) -> None:
    model = cached(parse, band="seen = Identity(past_only)", attention=CONCAT)
    body = next(node for node in model.graph if node.outputs[0].name == "both")
    body.replace_input_with(0, body.inputs[1])
    after, _ = apply(SimplifyAttentionMask(), model)
    assert read(after) == ["causal"]
    assert "is_causal" not in attentions(after)[0].attributes
    assert attentions(after)[0].inputs[3] is not None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"offset": "i0"}, "at 1 queries and 1 keys, row 1 query 0 key 0 is kept"),
        ({"offset": "i1"}, "at 1 queries and 1 keys, row 1 query 0 key 0 is kept"),
        ({"total": "new"}, "padding has shape [batch,new], expected one number a key, [batch,"),
    ],
    ids=str,
)
def test_near_misses_of_a_cached_mask_are_refused(
    parse: Any, apply: Any, changed: dict[str, str], reason: str
) -> None:
    model = cached(parse, **changed)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert read(after) == [None]
    assert reason in outcome.refusals[0].reason


CROSS = """cross (int64[batch, source] padding, int64[batch, target] ids,
    float[batch, target, 16] q, float[batch, source, 16] k, float[batch, source, 16] v)
    => (float[batch, target, 16] y)
{{  shown = Cast<to = 9>({by})
    row = Unsqueeze(shown, axes12)
    n = Shape<start = 1, end = 2>(q)
    cut = Concat<axis = 0>(one, one, n, one)
    pad = Where(row, f0, lowest)
    mask = Expand(pad, cut)
    y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, mask) }}"""


def test_cross_attention_is_padded_by_the_keys(parse: Any, apply: Any, run: Any) -> None:
    model = parse(CROSS.format(by="padding"), **CONSTANTS)
    InferShapes()(model)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert read(after) == ["padding by padding"]
    shapes = [node.inputs[0].name for node in after.graph if node.op_type == "Shape"]
    assert "ids" in shapes  # the number of queries comes from an input, not from the network
    random = np.random.default_rng(1)
    for batch, target, source in ((3, 2, 5), (2, 6, 3), (1, 1, 1)):
        one: dict[str, Any] = {"padding": random.integers(0, 2, (batch, source))}
        one["padding"][-1] = 0
        one["ids"] = random.integers(0, 9, (batch, target))
        for name, length in (("q", target), ("k", source), ("v", source)):
            one[name] = random.normal(0, 1, (batch, length, 16)).astype(np.float32)
        kept = one["padding"].astype(bool)[:, None, None, :]
        np.testing.assert_allclose(run(after, one)["y"], eager(one, kept), atol=2e-6, rtol=1e-5)


def test_cross_attention_is_not_padded_by_the_queries(parse: Any, apply: Any) -> None:
    model = parse(CROSS.format(by="ids"), **CONSTANTS)
    InferShapes()(model)
    _, outcome = apply(SimplifyAttentionMask(), model)
    (refusal,) = outcome.refusals
    assert refusal.reason == (
        "ids has shape [batch,target], expected one number a key, [batch,source]"
    )


TWO = """two (int64[b, s] padding, float[b, s, 16] q) => (float[b, s, 16] y)
{{  {first}
    one_y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q, mask)
    {second}
    y = Attention<q_num_heads = 2, kv_num_heads = 2>(one_y, one_y, one_y, mask2) }}"""
PLAIN = "s{n} = Cast<to = 9>(padding)\n r{n} = Unsqueeze(s{n}, axes12)\n"


def test_two_layers_share_one_mask(parse: Any, apply: Any) -> None:
    text = TWO.format(
        first=PLAIN.format(n=1) + "mask = Where(r1, f0, lowest)",
        second=PLAIN.format(n=2) + "mask2 = Where(r2, f0, fill)",
    )
    model = parse(text, **CONSTANTS)
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert [refusal.node for refusal in outcome.refusals] == ["n_y"]
    assert "infer shapes first" in outcome.refusals[0].reason
    InferShapes()(model)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (2, ())
    first, second = attentions(after)
    assert first.inputs[3] is second.inputs[3]


def test_queries_of_unknown_length_are_measured(parse: Any, apply: Any, run: Any) -> None:
    model = model_of(parse, PADDED + "mask = Where(row, f0, lowest)")
    for name in "qkv":
        value = next(value for value in model.graph.inputs if value.name == name)
        value.shape = ir.Shape([None, None, 16])
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert outcome.refusals == ()
    assert read(after) == ["padding by padding"]
    one = feeds(model, 3, 5)
    kept = one["padding"].astype(bool)[:, None, None, :]
    np.testing.assert_allclose(run(after, one)["y"], eager(one, kept), atol=2e-6, rtol=1e-5)


def test_an_unmasked_attention_is_left_alone(parse: Any, apply: Any) -> None:
    model = parse(
        """plain (float[b, s, 16] q) => (float[b, s, 16] y)
        { y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q) }"""
    )
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.modified, outcome.refusals) == (False, ())
