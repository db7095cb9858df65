"""Attention reads the key/value heads of a grouped model before they are repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.group_key_value_heads import GroupKeyValueHeads
from fuselage.passes.normalize.infer_shapes import InferShapes

INPUTS = """float[b, 6, q, 4] x, float[b, 2, k, 4] y, float[b, 2, k, 4] v, float[b, 1, q, k] mask,
    float[b, 6, k, 4] full"""
CONSTANTS = {
    "two": np.array([2]),
    "three": np.array([3]),
    "four": np.array([4]),
    "six": np.array([6]),
    "one": np.array([1]),
    "axis": np.array([2]),
    "first": np.array([1]),
    "groups": np.array([1, 1, 3, 1, 1]),
    "tiles": np.array([1, 1, 3, 1, 1]),
    "heads3": np.array([1, 3, 1, 1]),
    "lift": np.array([0, 2, 1, -1, 4]),
    "mixed": np.array([5, 2, 1, 3, 4]),
}
SIZES = """
    b = Shape<start = 0, end = 1>(y)
    k = Shape<start = 2, end = 3>(y)
    wide = Concat<axis = 0>(b, two, three, k, four)
    merged = Concat<axis = 0>(b, six, k, four)
"""


def repeat(name: str, lift: str = "Unsqueeze({}, axis)", spread: str = "Expand({}, wide)") -> str:
    return (
        f"{name}5 = {lift.format(name)}\n {name}w = {spread.format(name + '5')}\n"
        f"{name}r = Reshape({name}w, merged)\n"
    )


ATTEND = "out = Attention<scale = 0.3>(x, yr, vr, mask)\n"
SPELLINGS = {
    "Expand": repeat("y") + repeat("v"),
    "Expand by groups": repeat("y", spread="Expand({}, groups)")
    + repeat("v", spread="Expand({}, groups)"),
    "Tile": repeat("y", spread="Tile({}, tiles)") + repeat("v", spread="Tile({}, tiles)"),
    "Reshape": repeat("y", lift="Reshape({}, lift)") + repeat("v", lift="Reshape({}, lift)"),
    "K and V differently": repeat("y", lift="Reshape({}, lift)")
    + repeat("v", spread="Tile({}, tiles)"),
}


@pytest.fixture
def build(parse: Any) -> Any:
    """build(body): six query heads in x, two key/value heads in y and v."""

    def make(body: str, inputs: str = INPUTS, outputs: str = "") -> ir.Model:
        model = parse(
            f"grouped ({inputs}) => (float[b, 6, q, 4] out{outputs}) {{ {SIZES} {body} }}",
            **CONSTANTS,
        )
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, queries: int, keys: int) -> dict[str, Any]:
    random = np.random.default_rng(batch * 100 + queries * 10 + keys)

    def normal(heads: int, length: int) -> Any:
        return random.normal(0, 1, (batch, heads, length, 4)).astype(np.float32)

    shown = np.arange(keys) < keys - np.arange(batch)[:, None] % keys
    mask = np.where(shown, 0, -1e9).astype(np.float32)[:, None, None, :]
    return {
        "x": normal(6, queries),
        "y": normal(2, keys),
        "v": normal(2, keys),
        "mask": np.broadcast_to(mask, (batch, 1, queries, keys)).copy(),
        "full": normal(6, keys),
    }


CASES = (feeds(3, 5, 7), feeds(2, 4, 4), feeds(1, 1, 1), feeds(1, 1, 6))


@pytest.mark.parametrize("name", SPELLINGS)
def test_repeated_heads_are_shared(build: Any, apply: Any, same_numbers: Any, name: str) -> None:
    model = build(SPELLINGS[name] + ATTEND)
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    node = after.graph[-1]
    assert [value.name for value in node.inputs] == ["x", "y", "v", "mask"]
    assert not {"Expand", "Tile", "Reshape"} & {other.op_type for other in after.graph}
    same_numbers(model, after, *CASES, atol=2e-6, rtol=1e-5)
    assert not apply(GroupKeyValueHeads(), after)[1].modified


@pytest.mark.parametrize(
    ("grown", "spread", "shared"),
    [("k + 2", "Expand", 1), ("k", "Expand", 0), ("k + 2", "Tile", 0)],
)
def test_a_size_above_one_keeps_its_size_whatever_its_name(
    build: Any, apply: Any, grown: str, spread: str, shared: int
) -> None:
    """Expand widens an axis of 1 alone, and k may be 1; Tile repeats any."""
    model = build(SPELLINGS[spread] + ATTEND)
    values = ir.convenience.create_value_mapping(model.graph)
    for name in "yv":
        values[f"{name}5"].shape = ir.Shape(["b", 2, 1, grown, 4])
        values[f"{name}w"].shape = ir.Shape(["b", 2, 3, "total", 4])
        values[f"{name}r"].shape = ir.Shape(["b", 6, "total", 4])
    _, outcome = apply(GroupKeyValueHeads(), model)
    assert outcome.rewrites == shared


def test_one_head_for_all(build: Any, apply: Any, same_numbers: Any) -> None:
    inputs = INPUTS.replace("2, k, 4] y", "1, k, 4] y").replace("2, k, 4] v", "1, k, 4] v")
    body = (SPELLINGS["Expand"] + ATTEND).replace(", wide)", ", sixfold)")
    model = build("sixfold = Concat<axis = 0>(b, one, six, k, four)\n" + body, inputs)
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert outcome.rewrites == 1
    cases = [one | {"y": one["y"][:, :1], "v": one["v"][:, 1:]} for one in CASES]
    same_numbers(model, after, *cases, atol=2e-6, rtol=1e-5)


def test_heads_that_others_read_stay_for_them(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(SPELLINGS["Expand"] + ATTEND, outputs=", float[b, 6, k, 4] yr")
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph].count("Expand") == 1
    same_numbers(model, after, *CASES, atol=2e-6, rtol=1e-5)


def test_attention_without_repeated_heads_is_no_candidate(build: Any, apply: Any) -> None:
    flat = "out = Attention<q_num_heads = 6, kv_num_heads = 6>(x, yr, vr, mask)"
    for body in (
        "out = Attention(x, full, full, mask)",
        "out = Attention(x, y, v, mask)",
        SPELLINGS["Expand"] + "out = com.microsoft.Attention(x, yr, vr, mask)",
        SPELLINGS["Expand"] + flat,
    ):
        _, outcome = apply(GroupKeyValueHeads(), build(body))
        assert (outcome.rewrites, outcome.refusals) == (0, ())


REFUSED = {
    "K alone": (
        repeat("y") + "out = Attention(x, yr, full, mask)",
        "the heads of K alone are repeated",
    ),
    "V alone": (
        repeat("v") + "out = Attention(x, full, vr, mask)",
        "the heads of V alone are repeated",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(build: Any, apply: Any, name: str) -> None:
    body, reason = REFUSED[name]
    _, outcome = apply(GroupKeyValueHeads(), build(body))
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node) == ("group-key-value-heads", "n_out")
    assert refusal.reason == reason


def both(lift: str = "Unsqueeze({}, axis)", spread: str = "Expand({}, wide)") -> str:
    return repeat("y", lift, spread) + repeat("v", lift, spread) + ATTEND


LOOKALIKES = {
    # [b, 1, k..]: query head i would read key/value head i % 2, not i // 3.
    "heads repeated as a whole": both(lift="Unsqueeze({}, first)", spread="Expand({}, crosswise)"),
    "heads tiled as a whole": "yr = Tile(y, heads3)\n vr = Tile(v, heads3)\n" + ATTEND,
    "no merge": "yr = Concat<axis = 1>(y, y, y)\n vr = Concat<axis = 1>(v, v, v)\n" + ATTEND,
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_heads_repeated_in_another_order_stay(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    before = "crosswise = Concat<axis = 0>(b, three, two, k, four)\n"
    model = build(before + LOOKALIKES[name])
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert (outcome.rewrites, outcome.refusals) == (0, ())
    same_numbers(model, after, *CASES, atol=2e-6, rtol=1e-5)


def test_a_batch_that_is_expanded_too_stays(build: Any, apply: Any) -> None:
    inputs = INPUTS.replace("b, 2, k", "1, 2, k")
    body = both().replace("Expand(y5, wide)", "Expand(y5, wider)").replace("v5, wide", "v5, wider")
    body = body.replace(", merged)", ", merged_wider)")
    sizes = """bx = Shape<start = 0, end = 1>(x)
        wider = Concat<axis = 0>(bx, two, three, k, four)
        merged_wider = Concat<axis = 0>(bx, six, k, four)\n"""
    _, outcome = apply(GroupKeyValueHeads(), build(sizes + body, inputs))
    assert not outcome.modified


def test_a_reshape_that_mixes_batch_and_keys_stays(build: Any, apply: Any) -> None:
    """[3, 2, 5, 4] as [5, 2, 1, 3, 4] holds the same heads of other rows."""
    inputs = INPUTS.replace("b, 2, k", "3, 2, 5").replace("b,", "3,").replace("k]", "5]")
    body = both("Reshape({}, mixed)", "Expand({}, groups)")
    _, outcome = apply(GroupKeyValueHeads(), build(body, inputs))
    assert not outcome.modified


@pytest.mark.parametrize("name", ["y5", "yw", "yr"])
@pytest.mark.parametrize("unknown", ["rank", "sizes"])
def test_unknown_shapes_stay(build: Any, name: str, unknown: str) -> None:
    model = build(SPELLINGS["Reshape"] + ATTEND)
    value = ir.convenience.create_value_mapping(model.graph)[name]
    value.shape = None if unknown == "rank" else ir.Shape([None] * len(value.shape or ()))
    outcome = GroupKeyValueHeads()(model)
    assert not outcome.modified
    assert outcome.refusals[0].reason == "the heads of V alone are repeated"


BEHIND = "".join(
    f"""{n}t = Transpose<perm = [0, 2, 1, 3]>({n})
    {n}5 = Unsqueeze({n}t, last)
    {n}w = Expand({n}5, by_keys)
    {n}m = Reshape({n}w, merged_by_keys)
    {n}h = Transpose<perm = [0, 2, 1, 3]>({n}m)
    """
    for n in "yv"
)
BY_KEYS = """
    by_keys = Concat<axis = 0>(b, k, two, three, four)
    merged_by_keys = Concat<axis = 0>(b, k, six, four)
"""


def test_heads_repeated_before_their_transposition_and_rotation(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    inputs = INPUTS + ", float[b, k, 2] cos, float[b, k, 2] sin"
    body = BY_KEYS + BEHIND.replace("last", "three")
    body += "yr = RotaryEmbedding<interleaved = 1>(yh, cos, sin)\n"
    model = build(body + ATTEND.replace("vr", "vh"), inputs)
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    node = after.graph[-1]
    assert [str(value.shape) for value in node.inputs[1:3]] == ["[b,2,k,4]"] * 2
    assert not {"Expand", "Reshape"} & {other.op_type for other in after.graph}
    (turned,) = (other for other in after.graph if other.op_type == "RotaryEmbedding")
    assert turned.attributes["interleaved"].as_int() == 1
    for case in CASES:
        batch, _, keys, _ = case["y"].shape
        angles = np.outer(np.arange(keys) + 3, [1.0, 0.1])[None].repeat(batch, 0)
        angles = angles.astype(np.float32)
        tables = {"cos": np.cos(angles), "sin": np.sin(angles)}
        same_numbers(model, after, case | tables, atol=2e-6, rtol=1e-5)
    assert not apply(GroupKeyValueHeads(), after)[1].modified


def test_heads_cut_out_of_five_dimensions_are_squeezed(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    """Falcon cuts K and V out of [batch, keys, kv heads, g + 2, size]."""
    inputs = INPUTS + ", float[b, k, 2, 5, 4] packed"
    body = BY_KEYS + BEHIND.replace("yt = Transpose<perm = [0, 2, 1, 3]>(y)", "").replace(
        "vt = Transpose<perm = [0, 2, 1, 3]>(v)", ""
    )
    for name, start in (("y", "three"), ("v", "four")):
        cut = f"{name}5 = Slice(packed, {start}, {start}_end, three)"
        body = body.replace(f"{name}5 = Unsqueeze({name}t, last)", cut)
    ends = "three_end = Add(three, one)\n four_end = Add(four, one)\n"
    model = build(ends + body + ATTEND.replace("yr, vr", "yh, vh"), inputs)
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert outcome.rewrites == 1
    kinds = [node.op_type for node in after.graph]
    assert (kinds.count("Squeeze"), kinds.count("Expand")) == (2, 0)
    for case in CASES:
        batch, _, keys, _ = case["y"].shape
        packed = np.resize(case["full"], (batch, keys, 2, 5, 4)).copy()
        same_numbers(model, after, case | {"packed": packed}, atol=2e-6, rtol=1e-5)


def test_transpositions_may_move_every_axis(build: Any, apply: Any, same_numbers: Any) -> None:
    """Keys in front, as nn.MultiheadAttention has them: [keys, batch, heads, size]."""
    inputs = INPUTS.replace("b, 2, k, 4", "k, b, 2, 4")
    body = BY_KEYS.replace("(b, k,", "(k0, b0,") + BEHIND.replace("last", "three")
    for n in "yv":
        body = body.replace(f"{n}t = Transpose<perm = [0, 2, 1, 3]>({n})", "")
        body = body.replace(f"Unsqueeze({n}t,", f"Unsqueeze({n},")
        body = body.replace(f"<perm = [0, 2, 1, 3]>({n}m)", f"<perm = [1, 2, 0, 3]>({n}m)")
    sizes = "k0 = Shape<start = 0, end = 1>(y)\n b0 = Shape<start = 1, end = 2>(y)\n"
    model = build(sizes + body + ATTEND.replace("yr, vr", "yh, vh"), inputs)
    after, outcome = apply(GroupKeyValueHeads(), model)
    assert outcome.rewrites == 1
    assert [str(v.shape) for v in after.graph[-1].inputs[1:3]] == ["[b,2,k,4]"] * 2
    for case in CASES:
        moved = {n: case[n].transpose(2, 0, 1, 3).copy() for n in "yv"}
        same_numbers(model, after, case | moved, atol=2e-6, rtol=1e-5)


ELSEWHERE = {
    "another axis was repeated": ("[0, 1, 2, 3]", "yw5 = Identity(yr)\n vw5 = Identity(vr)\n"),
    "a rotation along the heads": (
        "[0, 2, 1, 3]",
        "yw5 = RotaryEmbedding(yr, cos, sin)\n vw5 = RotaryEmbedding(vr, cos, sin)\n",
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_repetition_of_what_is_no_head_stays(build: Any, apply: Any, name: str) -> None:
    """[b, k, 6, 4] repeated along its third axis, which is the length until it is transposed."""
    perm, between = ELSEWHERE[name]
    inputs = INPUTS.replace("b, 2, k, 4", "b, k, 2, 4").replace("b, 6, k, 4", "b, 6, 6, 4")
    if name == "another axis was repeated":
        inputs = inputs.replace("b, k, 2, 4", "b, 6, 2, 4")
    body = "b1 = Shape<start = 0, end = 1>(y)\n k1 = Shape<start = 1, end = 2>(y)\n"
    body += BY_KEYS.replace("(b, k,", "(b1, k1,") + "".join(
        f"{n}5 = Unsqueeze({n}, three)\n {n}w = Expand({n}5, by_keys)\n"
        f"{n}r = Reshape({n}w, merged_by_keys)\n"
        for n in "yv"
    )
    body += between + "".join(f"{n}h = Transpose<perm = {perm}>({n}w5)\n" for n in "yv")
    inputs += ", float[b, 6, 2] cos, float[b, 6, 2] sin"
    model = build(body + "out = Attention<scale = 0.3>(x, yh, vh)", inputs)
    _, outcome = apply(GroupKeyValueHeads(), model)
    assert not outcome.modified


def test_other_numbers_of_heads_are_refused(build: Any, apply: Any) -> None:
    inputs = INPUTS.replace("2, k, 4] v", "3, k, 4] v")
    body = repeat("y") + repeat("v", spread="Expand({}, pairs)")
    body = "pairs = Concat<axis = 0>(one, one, two, one, one)\n" + body
    _, outcome = apply(GroupKeyValueHeads(), build(body + ATTEND, inputs))
    assert not outcome.modified
    assert outcome.refusals[0].reason == "Q has 6 heads, K 2 and V 3"
