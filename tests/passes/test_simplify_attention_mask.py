"""Every spelling of plain padding becomes the canonical chain; any other mask stays as it is."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.clean_up import InferShapes
from fuselage.passes.padding_mask import mask_fill, padding_source
from fuselage.passes.simplify_attention_mask import SimplifyAttentionMask

SIZE = 8
CANONICAL = ["Cast", "Unsqueeze", "Where", "Shape", "Concat", "Expand", "Attention"]
CONSTANTS = {
    "f0": np.float32(0),
    "quarter": np.float32(0.25),
    "f1": np.float32(1),
    "weak": np.float32(-10000),
    "fill": np.float32(-1e38),
    "lowest": np.finfo(np.float32).min,
    "yes": np.array(True),
    "no": np.array(False),
    "i0": np.int64(0),
    "i1": np.int64(1),
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


def model_of(parse: Any, body: str, *, heads: int = 2, extra: str = "", t: str = "float") -> Any:
    one = f"y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}>(q, k, v, mask)"
    hidden = heads * SIZE
    model = parse(
        f"""masked (int64[batch, sequence] ids, int64[batch, sequence] padding,
            {t}[batch, sequence, {hidden}] q, {t}[batch, sequence, {hidden}] k,
            {t}[batch, sequence, {hidden}] v {extra}) => ({t}[batch, sequence, {hidden}] y)
            {{ {body}
            {one} }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    return model


def feeds(model: ir.Model, batch: int, sequence: int) -> dict[str, Any]:
    random = np.random.default_rng(batch * 100 + sequence)
    lengths = sequence - np.arange(batch) % sequence
    made: dict[str, Any] = {
        "ids": random.integers(0, 9, (batch, sequence)),
        "padding": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
    }
    for value in model.graph.inputs:
        if value.name in ("q", "k", "v"):
            assert value.dtype is not None
            shape = (batch, sequence, 2 * SIZE)
            made[value.name] = random.normal(0, 1, shape).astype(value.dtype.numpy())
    return {name: made[name] for name in made if name in {v.name for v in model.graph.inputs}}


def used(model: ir.Model) -> list[str]:
    """Operators that the outputs depend on, in order."""
    reached = {value.producer() for value in model.graph.outputs}
    for node in reversed(tuple(model.graph)):
        if node in reached:
            reached |= {value.producer() for value in node.inputs if value is not None}
    return [node.op_type for node in model.graph if node in reached]


@pytest.mark.parametrize("name", PADDING)
def test_padding_in_any_spelling_becomes_canonical(
    parse: Any, apply: Any, run: Any, name: str
) -> None:
    model = model_of(parse, PADDING[name])
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert used(after) == CANONICAL
    mask = next(node for node in after.graph if node.op_type == "Attention").inputs[3]
    assert mask.dtype == ir.DataType.FLOAT
    assert [str(dim) for dim in mask.shape] == ["batch", "1", "sequence", "sequence"]
    source = padding_source(mask)
    assert source is not None
    assert source.name == "padding"
    for shape in ((3, 7), (1, 1), (2, 5)):
        one = feeds(model, *shape)
        got = run(after, one)["y"]
        np.testing.assert_allclose(got, attention(one), atol=2e-6, rtol=1e-5)
    _, second = apply(SimplifyAttentionMask(), after)
    assert (second.modified, second.refusals) == (False, ())


def attention(one: dict[str, Any]) -> Any:
    """softmax(Q K^T / sqrt(d) + mask) V in float64, two heads."""
    batch, sequence, _ = one["q"].shape
    q, k, v = (
        one[name].reshape(batch, sequence, 2, SIZE).transpose(0, 2, 1, 3).astype(np.float64)
        for name in "qkv"
    )
    scores = q @ k.transpose(0, 1, 3, 2) / SIZE**0.5
    scores = np.where(one["padding"][:, None, None, :] == 1, scores, -1e38)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    return y.transpose(0, 2, 1, 3).reshape(batch, sequence, 2 * SIZE)


@pytest.mark.parametrize("t", ["float", "float16"])
def test_a_fully_masked_row_attends_evenly(parse: Any, apply: Any, run: Any, t: str) -> None:
    body = PADDED + "mask = Expand(row, full)"
    after, _ = apply(SimplifyAttentionMask(), model_of(parse, body, t=t))
    one = feeds(after, 3, 6)
    one["padding"][2] = 0
    even = one["v"][2].astype(np.float64).mean(axis=0)
    got = run(after, one)["y"][2]
    np.testing.assert_allclose(
        got, np.tile(even, (6, 1)), atol=2e-6 if t == "float" else 2e-3, rtol=0
    )


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_the_fill_is_low_finite_and_not_the_lowest(dtype: ir.DataType) -> None:
    fill = np.array(mask_fill(dtype)).astype(dtype.numpy()).astype(np.float64)
    lowest = float(dtype.min)
    assert np.isfinite(fill)
    assert lowest < fill < 0.85 * lowest
    assert np.isfinite((fill + 0.05 * lowest).astype(dtype.numpy()).astype(np.float64))


DISTANCE = "gap = Sub(q4, k4)\n far = Abs(gap)\n"
REFUSED = {
    "causal": (
        PADDED + "past = LessOrEqual(k4, q4)\n both = And(row, past)\n"
        "mask = Where(both, f0, lowest)",
        "at sequence 2 row 0 query 0 key 1 is masked",
    ),
    "a window of 64": (
        PADDED + DISTANCE + "near = LessOrEqual(far, window)\n both = And(row, near)\n"
        "mask = Where(both, f0, lowest)",
        "at sequence 131 row 0 query 0 key 65 is masked",
    ),
    "a window of 64 in floats": (
        PADDED + DISTANCE + "farf = Cast<to = 1>(far)\n near = LessOrEqual(farf, fwindow)\n"
        "both = And(row, near)\n mask = Where(both, f0, lowest)",
        "at sequence 131 row 0 query 0 key 65 is masked",
    ),
    "a window of 1500": (
        PADDED + DISTANCE + "near = LessOrEqual(far, wide)\n both = And(row, near)\n"
        "mask = Where(both, f0, lowest)",
        "at sequence 3003 row 0 query 0 key 1501 is masked",
    ),
    "a window from a filled tensor": (
        PADDED + DISTANCE + "size = ConstantOfShape<value = int64[1] {64}>(one)\n"
        "near = LessOrEqual(far, size)\n both = And(row, near)\n mask = Where(both, f0, lowest)",
        "at sequence 131 row 0 query 0 key 65 is masked",
    ),
    "a size from a tensor of three dimensions": (
        "s = Shape<start = 1, end = 2>(q)\n b = Shape<start = 0, end = 1>(padding)\n"
        "shown = Cast<to = 9>(padding)\n row = Unsqueeze(shown, axes12)\n"
        "cut = Concat<axis = 0>(b, one, s, s)\n wide4 = Expand(row, cut)\n"
        "mask = Where(wide4, f0, lowest)",
        "the mask reads the input 'q' of shape [batch,sequence,16]",
    ),
    "a window too large to try": (
        PADDED + DISTANCE + "near = LessOrEqual(far, huge)\n both = And(row, near)\n"
        "mask = Where(both, f0, lowest)",
        "the mask holds the constant 5000; windows are tried to 2048",
    ),
    "a window from a table": (
        PADDED + "cut = Concat<axis = 0>(one, one, s, s)\n"
        "zeros4 = Concat<axis = 0>(a0, a0, a0, a0)\n table = Slice(band, zeros4, cut)\n"
        "both = And(row, table)\n mask = Where(both, f0, lowest)",
        "the mask cannot be evaluated at [1, 203]",
    ),
    "blocks of 64": (
        PADDED + "qb = Div(q4, window)\n kb = Div(k4, window)\n near = Equal(qb, kb)\n"
        "both = And(row, near)\n mask = Where(both, f0, lowest)",
        "at sequence 131 row 0 query 0 key 64 is masked",
    ),
    "a bias a head": (
        PADDED + DISTANCE + "farf = Cast<to = 1>(far)\n alibi = Mul(farf, slope)\n"
        "pad = Where(row, f0, lowest)\n mask = Add(pad, alibi)",
        "it has shape [1, 2, 1, 1] for padding [1, 1]",
    ),
    "a bias a distance": (
        PADDED + DISTANCE + "farf = Cast<to = 1>(far)\n"
        "pad = Where(row, f0, lowest)\n mask = Sub(pad, farf)",
        "at sequence 2 row 0 query 0 key 1 is masked",
    ),
    "a small bias a distance": (
        PADDED + DISTANCE + "farf = Cast<to = 1>(far)\n part = Mul(farf, quarter)\n"
        "pad = Where(row, f0, lowest)\n mask = Sub(pad, part)",
        "at sequence 2 row 0 query 0 key 1 is masked",
    ),
    "padding of the queries": (
        PADDED + "col = Unsqueeze(shown, axes13)\n wide4 = Expand(col, full)\n"
        "mask = Where(wide4, f0, lowest)",
        "at sequence 2 row 0 query 0 key 1 is masked",
    ),
    "inverted": (
        PADDED + "mask = Where(row, lowest, f0)",
        "at sequence 1 row 0 query 0 key 0 is kept",
    ),
    "a fill too weak": (
        PADDED + "weak1 = Neg(f1)\n mask = Where(row, f0, weak1)",
        "at sequence 1 row 0 query 0 key 0 is masked",
    ),
    "the first row for all": (
        PADDED + "first = Slice(row, a0, one, a0)\n wide4 = Expand(first, full)\n"
        "mask = Where(wide4, f0, lowest)",
        "at sequence 1 row 1 query 0 key 0 is",
    ),
    "segments too": (
        PADDED + "other = Equal(ids, i0)\n o4 = Unsqueeze(other, axes12)\n both = And(row, o4)\n"
        "mask = Where(both, f0, lowest)",
        "the mask depends on ids, padding, not on one padding mask",
    ),
    "an id the probes never draw": (
        PADDED + "same = Equal(ids, pad_id)\n kept = Not(same)\n o4 = Unsqueeze(kept, axes12)\n"
        "both = And(row, o4)\n mask = Where(both, f0, lowest)",
        "the mask depends on ids, padding, not on one padding mask",
    ),
    "sizes alone": (
        SIZES + FULL + "past = LessOrEqual(k4, q4)\n mask = Where(past, f0, lowest)",
        "the mask depends on no input but sizes, not on one padding mask",
    ),
    "a foreign operator": (
        PADDED + "pad = Where(row, f0, lowest)\n soft = Softmax(pad)\n mask = Expand(soft, full)",
        "the mask is computed with Softmax",
    ),
    "three dimensions": (
        PADDED + "mid = Unsqueeze(shown, one)\n cut = Concat<axis = 0>(b, s, s)\n"
        "wide3 = Expand(mid, cut)\n mask = Where(wide3, f0, lowest)",
        "it has 3 dimensions, not 4",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_are_refused_with_the_reason(parse: Any, apply: Any, name: str) -> None:
    body, reason = REFUSED[name]
    model = model_of(parse, body)
    before = used(model)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert not outcome.modified
    assert used(after) == before
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node) == ("simplify-attention-mask", "n_y")
    assert reason in refusal.reason


def test_a_mask_that_is_an_input_is_refused(parse: Any, apply: Any) -> None:
    model = model_of(parse, "", extra=", float[batch, 1, sequence, sequence] mask")
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert not outcome.modified
    assert re.search(
        r"depends on mask of shape \[batch,1,.*\], not 2-D", outcome.refusals[0].reason
    )


CROSS = """cross (int64[batch, sequence] padding, float[batch, {queries}, 16] q,
    float[batch, sequence, 16] k, float[batch, sequence, 16] v {more})
    => (float[batch, {queries}, 16] y)
{{  shown = Cast<to = 9>(padding)
    row = Unsqueeze(shown, axes12)
    b = Shape<start = 0, end = 1>(q)
    t = Shape<start = 1, end = 2>(padding)
    mask = Where(row, f0, lowest)
    y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, mask) }}"""


def test_cross_attention_is_refused(parse: Any, apply: Any) -> None:
    model = parse(CROSS.format(queries="target", more=""), **CONSTANTS)
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert not outcome.modified
    assert (
        outcome.refusals[0].reason == "the queries have length target, padding has length sequence"
    )


@pytest.mark.parametrize(
    ("more", "fires"), [("", True), (", int64[batch, target] decoder_ids", False)]
)
def test_queries_of_unknown_length_need_inputs_of_one_length(
    parse: Any, apply: Any, more: str, fires: bool
) -> None:
    model = parse(CROSS.format(queries="sequence", more=more), **CONSTANTS)
    model.graph.inputs[1].shape = ir.Shape(["batch", None, 16])
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert outcome.modified is fires


TWO = """two (int64[batch, s] padding, float[batch, s, 16] q) => (float[batch, s, 16] y)
{{  {first}
    one_y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q, mask)
    {second}
    y = Attention<q_num_heads = 2, kv_num_heads = 2>(one_y, one_y, one_y, mask2) }}"""
CHAIN = """
    c{n} = Cast<to = 9>(padding)
    u{n} = Unsqueeze(c{n}, {axes})
    w{n} = Where(u{n}, f0, {fill})
    l{n} = Shape<start = 1, end = 2>(padding)
    t{n} = Concat<axis = 0>(ones, l{n}, one)
    {mask} = Expand(w{n}, t{n})
"""


def chain(mask: str, n: int = 2, axes: str = "axes12", fill: str = "fill") -> str:
    return CHAIN.format(n=n, axes=axes, mask=mask, fill=fill)


def test_two_layers_share_one_mask(parse: Any, apply: Any) -> None:
    plain = "s{n} = Cast<to = 9>(padding)\n r{n} = Unsqueeze(s{n}, axes12)\n"
    text = TWO.format(
        first=plain.format(n=1) + "mask = Where(r1, f0, lowest)",
        second=plain.format(n=2) + "mask2 = Where(r2, f0, fill)",
    )
    model = parse(text, **CONSTANTS)
    _, outcome = apply(SimplifyAttentionMask(), model)
    (refusal,) = outcome.refusals
    assert (refusal.node, outcome.rewrites) == ("n_y", 1)
    assert refusal.reason == "the type of the queries is unknown; infer shapes first"
    InferShapes()(model)
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert outcome.rewrites == 2
    first, second = (node for node in after.graph if node.op_type == "Attention")
    assert first.inputs[3] is second.inputs[3]


def test_a_canonical_mask_behind_its_reader_is_moved(parse: Any, apply: Any) -> None:
    text = TWO.format(
        first="s1 = Cast<to = 9>(padding)\n r1 = Unsqueeze(s1, axes12)\n"
        "mask = Where(r1, f0, lowest)",
        second=chain("mask2"),
    )
    after, outcome = apply(SimplifyAttentionMask(), parse(text, **CONSTANTS))
    assert outcome.rewrites == 1
    first, second = (node for node in after.graph if node.op_type == "Attention")
    assert first.inputs[3] is second.inputs[3]


@pytest.mark.parametrize(
    "lookalike",
    [
        {"axes": "axes13"},  # pads the queries
        {"fill": "f1"},  # hides nothing
        {"fill": "lowest"},  # ONNX Runtime answers 0 for a masked row
    ],
    ids=str,
)
def test_lookalikes_of_the_canonical_chain_are_not_taken_for_it(
    parse: Any, apply: Any, lookalike: dict[str, str]
) -> None:
    text = TWO.format(first=chain("mask", 1), second=chain("mask2", 2, **lookalike))
    model = parse(text, **CONSTANTS)
    InferShapes()(model)
    good, other = (node.inputs[3] for node in model.graph if node.op_type == "Attention")
    assert padding_source(good) is not None
    assert padding_source(other) is None
    after, outcome = apply(SimplifyAttentionMask(), model)
    masks = [node.inputs[3] for node in after.graph if node.op_type == "Attention"]
    assert masks[0].name == "mask"
    same_mask = "lowest" in lookalike.values()
    assert (masks[0] is masks[1]) == same_mask
    assert len(outcome.refusals) == (0 if same_mask else 1)


def test_an_unmasked_attention_is_left_alone(parse: Any, apply: Any) -> None:
    model = parse(
        """plain (float[b, s, 16] q) => (float[b, s, 16] y)
        { y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q) }"""
    )
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert (outcome.modified, outcome.refusals) == (False, ())
