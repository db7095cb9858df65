"""Attention splits and merges the heads itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.flatten_attention_heads import FlattenAttentionHeads
from fuselage.passes.normalize.infer_shapes import InferShapes

INPUTS = "float[b, s, 8] q, float[b, t, 8] k, float[b, t, 8] v, float[b, 1, s, t] mask"
SPLIT = "".join(
    f"{name}4 = Reshape({name}, split)\n {name}h = Transpose<perm = [0, 2, 1, 3]>({name}4)\n"
    for name in "qkv"
)
ATTEND = "a = Attention<scale = 0.3>(qh, kh, vh, mask)\n"
MERGE = "at = Transpose<perm = [0, 2, 1, 3]>(a)\n y = Reshape(at, merge)\n"
CONSTANTS = {
    "split": np.array([0, 0, 2, 4]),
    "split1": np.array([0, 0, 1, 4]),
    "split4": np.array([0, 0, 4, 2]),
    "merge": np.array([0, 0, 8]),
    "merge2": np.array([0, -1, 16]),
    "merged4": np.array([1, -1, 2, 4]),
    "other": np.array([0, 2, -1, 4]),
    "merge4": np.array([0, 0, 8, 1]),
    "positions": np.array([0, -1, 1, 4]),
    "back": np.array([0, -1, 8]),
    "flat": np.array([-1, 8]),
    "front": np.array([0]),
    "one": np.array([1]),
    "single": np.array([0, 1, -1, 4]),
    "half": np.float32(0.5),
    "negative": np.float32(-0.5),
    "nothing": np.float32(0),
    "eight": np.arange(1, 9, dtype=np.float32) / 8,
    "crossed": np.array([3, 2, 2, 4]),
    "crossed3": np.array([3, 2, 8]),
}


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, inputs: str = INPUTS, outputs: str = "float[b, s, 8] y") -> ir.Model:
        model = parse(f"heads ({inputs}) => ({outputs}) {{ {body} }}", **CONSTANTS)
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, s: int, t: int, kv: int = 8) -> dict[str, Any]:
    random = np.random.default_rng(batch * 100 + s * 10 + t)
    sizes = {"q": (batch, s, 8), "k": (batch, t, kv), "v": (batch, t, kv)}
    made = {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in sizes.items()}
    keep = np.arange(t) < 1 + np.arange(batch)[:, None] % t
    mask = np.where(keep, 0, -1e30).astype(np.float32)[:, None, None, :]
    return made | {"mask": np.broadcast_to(mask, (batch, 1, s, t)).copy()}


def test_heads_are_split_by_the_operator(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(SPLIT + ATTEND + MERGE)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert {name: attribute.value for name, attribute in node.attributes.items()} == {
        "scale": pytest.approx(0.3),
        "q_num_heads": 2,
        "kv_num_heads": 2,
    }
    assert node.name == "n_a"
    assert after.graph.outputs[0].name == "y"
    same_numbers(model, after, feeds(3, 7, 7), feeds(2, 5, 3), feeds(1, 1, 1), atol=2e-6, rtol=1e-5)
    _, second = apply(FlattenAttentionHeads(), after)
    assert (second.modified, second.refusals) == (False, ())


def test_a_causal_attention_stays_causal(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(SPLIT + "a = Attention<is_causal = 1>(qh, kh, vh)\n" + MERGE)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert outcome.rewrites == 1
    assert after.graph[0].attributes["is_causal"].as_int() == 1
    assert "scale" not in after.graph[0].attributes
    same_numbers(model, after, feeds(2, 5, 5), atol=2e-6, rtol=1e-5)


def test_fewer_key_heads_are_kept(build: Any, apply: Any, same_numbers: Any) -> None:
    inputs = INPUTS.replace("[b, t, 8]", "[b, t, 4]")
    body = SPLIT.replace("Reshape(k, split)", "Reshape(k, split1)").replace(
        "Reshape(v, split)", "Reshape(v, split1)"
    )
    model = build(body + ATTEND + MERGE, inputs)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert outcome.rewrites == 1
    attributes = after.graph[0].attributes
    assert (attributes["q_num_heads"].as_int(), attributes["kv_num_heads"].as_int()) == (2, 1)
    same_numbers(model, after, feeds(3, 5, 4, kv=4), atol=2e-6, rtol=1e-5)


def swapped(old: str, new: str) -> str:
    body = SPLIT + ATTEND + MERGE
    assert old in body
    return body.replace(old, new)


FOLDED = {
    "norms of the split heads": (
        INPUTS,
        swapped("v4 = Reshape(v, split)", "v5 = Reshape(v, split)\n v4 = Neg(v5)"),
        feeds(3, 7, 5),
    ),
    "heads from two dimensions": (
        INPUTS,
        "q2 = Reshape(q, flat)\n" + swapped("q4 = Reshape(q, split)", "q4 = Reshape(q2, merged4)"),
        feeds(1, 7, 5),
    ),
    "heads that are inputs": (
        INPUTS.replace("[b, s, 8] q", "[b, s, 2, 4] q4"),
        swapped("q4 = Reshape(q, split)\n", ""),
        {**(some := feeds(2, 3, 4)), "q4": some.pop("q").reshape(2, 3, 2, 4)},
    ),
    "rows that change places": (
        INPUTS.replace("[b, s, 8] q", "[2, 3, 8] q"),
        swapped("q4 = Reshape(q, split)", "q4 = Reshape(q, crossed)"),
        {**(other := feeds(3, 2, 4)), "q": other["q"].reshape(2, 3, 8)},
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_heads_that_are_no_mere_split_are_folded(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    inputs, body, case = FOLDED[name]
    case.pop("q" if "q4" in case else "", None)
    model = build(body, inputs)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert "Transpose" not in [node.op_type for node in after.graph]
    (node,) = (node for node in after.graph if node.op_type == "Attention")
    (fold,) = (v.producer() for v in node.inputs[:3] if v.producer() is not None)
    assert fold.op_type == "Reshape"
    assert fold.outputs[0].shape[2] == 8
    assert fold.outputs[0].dtype == ir.DataType.FLOAT
    same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


SCALED = "qs = Mul(q, {})\n" + swapped("q4 = Reshape(q, split)", "q4 = Reshape(qs, split)")


@pytest.mark.parametrize(
    ("factor", "attend", "scale"),
    [
        ("half", "<scale = 0.3>", 0.15),
        ("negative", "<scale = 0.3>", 0.3),
        ("nothing", "<scale = 0.3>", 0.3),
        ("eight", "<scale = 0.3>", 0.3),
        ("half", "", None),  # no scale is given: its default depends on the size of the heads
    ],
)
def test_a_number_on_q_becomes_a_part_of_the_scale(
    build: Any, apply: Any, same_numbers: Any, factor: str, attend: str, scale: float | None
) -> None:
    model = build(SCALED.format(factor).replace("<scale = 0.3>", attend))
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert outcome.rewrites == 1
    node = after.graph[-1]
    got = node.attributes.get("scale")
    assert (None if got is None else got.as_float()) == (scale and pytest.approx(scale))
    assert [n.op_type for n in after.graph].count("Mul") == (scale != 0.15)
    same_numbers(model, after, feeds(3, 7, 5), feeds(1, 1, 1), atol=2e-6, rtol=1e-5)


LIFTS = {
    "Unsqueeze": ("Unsqueeze({}, one)", "", []),
    "Reshape": ("Reshape({}, single)", "", []),
    "something else": ("Mul({}u, half)", "one", ["Unsqueeze", "Mul", "Squeeze"] * 2),
    "another transposition": (
        "Transpose<perm = [1, 0, 2, 3]>({}u)",
        "front",
        ["Unsqueeze", "Transpose", "Squeeze"] * 2,
    ),
}


@pytest.mark.parametrize("name", LIFTS)
def test_a_single_head_is_never_transposed(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    """Multi-query attention gives one head an axis in front of the sequence."""
    lift, where, left = LIFTS[name]
    body = SPLIT
    for n in "kv":
        body = body.replace(f"{n}4 = Reshape({n}, split)\n", "")
        unsqueeze = f"{n}u = Unsqueeze({n}, {where})\n" if where else ""
        body = body.replace(
            f"{n}h = Transpose<perm = [0, 2, 1, 3]>({n}4)", f"{unsqueeze}{n}h = {lift.format(n)}"
        )
    model = build(body + ATTEND + MERGE, INPUTS.replace("[b, t, 8]", "[b, t, 4]"))
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    kinds = [node.op_type for node in after.graph]
    assert sorted(kinds) == sorted([*left, "Attention"])
    attributes = after.graph[-1].attributes
    assert (attributes["q_num_heads"].as_int(), attributes["kv_num_heads"].as_int()) == (2, 1)
    cases = (feeds(3, 5, 4, kv=4), feeds(1, 1, 1, kv=4))
    same_numbers(model, after, *cases, atol=2e-6, rtol=1e-5)


ROTARY = """
    qr = RotaryEmbedding(qh, cos, sin, at_q)
    kr = RotaryEmbedding<interleaved = 1>(kh, cos, sin, at_k)
    a = Attention<scale = 0.3>(qr, kr, vh, mask)
"""
ROTARY_INPUTS = INPUTS + ", float[9, 2] cos, float[9, 2] sin, int64[b, s] at_q, int64[b, t] at_k"


def test_rotations_are_applied_to_folded_heads(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(SPLIT + ROTARY + MERGE, ROTARY_INPUTS)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["RotaryEmbedding"] * 2 + ["Attention"]
    turned = [node for node in after.graph if node.op_type == "RotaryEmbedding"]
    assert [node.attributes["num_heads"].as_int() for node in turned] == [2, 2]
    assert [node.name for node in turned] == ["n_qr", "n_kr"]
    assert [str(node.outputs[0].shape) for node in turned] == ["[b,s,8]", "[b,t,8]"]
    angles = np.outer(np.arange(9), [1.0, 0.1]).astype(np.float32)
    for batch, s, t in ((2, 5, 7), (1, 1, 1)):
        positions = {"at_q": np.arange(s) + 2, "at_k": np.arange(t)}
        case = feeds(batch, s, t) | {"cos": np.cos(angles), "sin": np.sin(angles)}
        case |= {name: np.tile(row, (batch, 1)) for name, row in positions.items()}
        same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("read", [True, False])
def test_a_rotation_that_others_read_stays_for_them(
    build: Any, apply: Any, same_numbers: Any, read: bool
) -> None:
    outputs = "float[b, s, 8] y, float[b, 2, t, 4] kr" if read else "float[b, s, 8] y"
    model = build(SPLIT + ROTARY + MERGE, ROTARY_INPUTS, outputs)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph].count("RotaryEmbedding") == 2 + read
    angles = np.outer(np.arange(9), [1.0, 0.1]).astype(np.float32)
    case = feeds(2, 3, 4) | {"cos": np.cos(angles), "sin": np.sin(angles)}
    case |= {"at_q": np.tile(np.arange(3), (2, 1)), "at_k": np.tile(np.arange(4), (2, 1))}
    same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("past", [0, 3])
def test_a_cache_keeps_its_four_dimensions(
    build: Any, apply: Any, same_numbers: Any, past: int
) -> None:
    attend = "a, pk, pv = Attention<scale = 0.3>(qh, kh, vh, mask, cache_k, cache_v)\n"
    inputs = INPUTS.replace("float[b, 1, s, t] mask", "float[b, 1, s, total] mask")
    inputs += ", float[b, 2, past, 4] cache_k, float[b, 2, past, 4] cache_v"
    outputs = "float[b, s, 8] y, float[b, 2, total, 4] pk, float[b, 2, total, 4] pv"
    model = build(SPLIT + attend + MERGE, inputs, outputs)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert outcome.rewrites == 1
    (node,) = after.graph
    assert [value.name for value in node.outputs] == ["y", "pk", "pv"]
    assert str(node.outputs[1].shape) == "[b,2,past + t,4]"
    for s in (4, 1):
        case = feeds(2, s, s)
        cache = feeds(2, past, s)["q"].reshape(2, 2, past, 4)
        mask = np.zeros((2, 1, s, past + s), np.float32)
        mask[1, ..., :past] = -1e9
        case |= {"mask": mask, "cache_k": cache, "cache_v": -cache}
        same_numbers(model, after, case, atol=2e-6, rtol=1e-5)


REFUSED = {
    "the number of heads is unknown": (
        swapped("Reshape(q, split)", "Reshape(q, some)"),
        "Q: the heads of 'n_qh' have no known number and size",
    ),
    "K has no Transpose behind its rotation": (
        swapped(
            "a = Attention<scale = 0.3>(qh, kh,",
            "kn = Neg(kh)\n kr = RotaryEmbedding(kn, cos, sin)\na = Attention<scale = 0.3>(qh, kr,",
        ),
        "K: it is not a Transpose with perm [0, 2, 1, 3] of split heads",
    ),
    "Q is not split": (
        "qh = Reshape(q, other)\n" + swapped("qh = Transpose<perm = [0, 2, 1, 3]>(q4)\n", ""),
        "Q: it is not a Transpose with perm [0, 2, 1, 3] of split heads",
    ),
    "K is transposed in another way": (
        swapped(
            "kh = Transpose<perm = [0, 2, 1, 3]>(k4)", "kh = Transpose<perm = [2, 0, 1, 3]>(k4)"
        ),
        "K: it is not a Transpose with perm [0, 2, 1, 3] of split heads",
    ),
    "K and V have other heads": (
        swapped("v4 = Reshape(v, split)", "v4 = Reshape(v, split4)"),
        "K has 2 heads and V has 4",
    ),
    "the output is read twice": (
        swapped(
            "y = Reshape(at, merge)",
            "y0 = Reshape(at, merge)\n n = Neg(a)\n"
            "nt = Transpose<perm = [0, 2, 1, 3]>(n)\n n3 = Reshape(nt, merge)\n"
            "y = Add(y0, n3)",
        ),
        "its output is not read by one Transpose with perm [0, 2, 1, 3] alone",
    ),
    "the output is not transposed": (
        swapped("at = Transpose<perm = [0, 2, 1, 3]>(a)", "at = Neg(a)"),
        "its output is not read by one Transpose with perm [0, 2, 1, 3] alone",
    ),
    "the output is transposed in another way": (
        swapped("at = Transpose<perm = [0, 2, 1, 3]>(a)", "at = Transpose<perm = [0, 1, 2, 3]>(a)"),
        "its output is not read by one Transpose with perm [0, 2, 1, 3] alone",
    ),
    "heads are not merged": (
        swapped("y = Reshape(at, merge)", "y0 = Neg(at)\n y = Reshape(y0, merge)"),
        "its heads are not merged by one Reshape",
    ),
    "heads are merged into something else": (
        swapped("y = Reshape(at, merge)", "y0 = Reshape(at, merge2)\n y = Reshape(y0, back)"),
        "Reshape 'n_y0' turns ",
    ),
    "heads are merged and split again": (
        swapped("y = Reshape(at, merge)", "y0 = Reshape(at, merge4)\n y = Reshape(y0, back)"),
        "Reshape 'n_y0' turns ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(build: Any, apply: Any, name: str) -> None:
    body, reason = REFUSED[name]
    extra = ", float[b, t, 2] cos, float[b, t, 2] sin, int64[4] some"
    model = build(body, INPUTS + extra)
    after, outcome = apply(FlattenAttentionHeads(), model)
    assert not outcome.modified
    assert len(after.graph) == len(model.graph)
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node) == ("flatten-attention-heads", "n_a")
    assert refusal.reason.startswith(reason)


def test_an_output_of_the_graph_stays_four_dimensional(build: Any, apply: Any) -> None:
    model = build(SPLIT + ATTEND + MERGE, outputs="float[b, s, 8] y, float[b, 2, s, 4] a")
    _, outcome = apply(FlattenAttentionHeads(), model)
    assert not outcome.modified
    assert outcome.refusals[0].reason.startswith("its output is not read by one Transpose")


def test_merged_rows_that_change_places_are_refused(build: Any, apply: Any) -> None:
    inputs = (
        INPUTS.replace("b, s, 8", "2, 3, 8").replace("[b, ", "[2, ").replace("1, s, t", "1, 3, t")
    )
    model = build(SPLIT + ATTEND + MERGE.replace("merge)", "crossed3)"), inputs, "float[3, 2, 8] y")
    _, outcome = apply(FlattenAttentionHeads(), model)
    assert not outcome.modified
    assert outcome.refusals[0].reason == "Reshape 'n_y' turns [2,3,2,4] into [3,2,8]"


def test_attention_of_another_domain_is_no_candidate(build: Any, apply: Any) -> None:
    body = SPLIT + ATTEND.replace("= Attention<scale = 0.3>", "= com.microsoft.Attention") + MERGE
    _, outcome = apply(FlattenAttentionHeads(), build(body))
    assert (outcome.modified, outcome.refusals) == (False, ())
