"""Attention appends new keys and values to the cache itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.fuse_key_value_cache import FuseKeyValueCache
from fuselage.passes.attention.group_key_value_heads import GroupKeyValueHeads
from fuselage.passes.normalize.infer_shapes import InferShapes

INPUTS = """float[b, 4, s, 8] x, float[b, 2, s, 8] y, float[b, 2, s, 8] v,
    float[b, 2, past, 8] past_k, float[b, 2, past, 8] past_v, float[b, 1, s, total] mask"""
PRESENT = ", float[b, 2, total, 8] present_k, float[b, 2, total, 8] present_v"
APPEND = """
    present_k = Concat<axis = -2>(past_k, y)
    present_v = Concat<axis = 2>(past_v, v)
"""
ATTEND = "out = Attention<scale = 0.3>(x, present_k, present_v, mask)\n"


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, outputs: str = PRESENT) -> ir.Model:
        model = parse(
            f"cached ({INPUTS}) => (float[b, 4, s, 8] out{outputs}) {{ {body} }}",
            three=np.array([3]),
            one=np.array([1]),
            one2=np.array([2]),
            minus_two=np.array([-2]),
            most=np.array([2**31 - 1]),
            width=np.array([8]),
        )
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, new: int, past: int, *, masked: bool = True) -> dict[str, Any]:
    random = np.random.default_rng(batch * 100 + new * 10 + past)

    def normal(heads: int, length: int) -> Any:
        return random.normal(0, 1, (batch, heads, length, 8)).astype(np.float32)

    keys = past + new
    shown = np.arange(keys) >= np.arange(batch)[:, None] % keys  # padded on the left
    causal = np.arange(keys) <= past + np.arange(new)[:, None]
    mask = np.where(shown[:, None, None, :] & causal, 0, -1e9).astype(np.float32)
    return {
        "x": normal(4, new),
        "y": normal(2, new),
        "v": normal(2, new),
        "past_k": normal(2, past),
        "past_v": normal(2, past),
        "mask": mask if masked else np.zeros_like(mask),
    }


CASES = (feeds(3, 4, 5), feeds(2, 1, 6), feeds(2, 5, 0), feeds(1, 1, 0), feeds(1, 1, 1))


def test_attention_takes_past_and_gives_present(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(APPEND + ATTEND)
    after, outcome = apply(FuseKeyValueCache(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert [v.name for v in node.inputs] == ["x", "y", "v", "mask", "past_k", "past_v"]
    assert [v.name for v in node.outputs] == ["out", "present_k", "present_v"]
    assert [v.name for v in after.graph.outputs] == ["out", "present_k", "present_v"]
    assert node.name == "n_out"
    assert node.attributes["scale"].as_float() == pytest.approx(0.3)
    assert [v.dtype for v in node.outputs] == [ir.DataType.FLOAT] * 3
    assert node.outputs[1].shape == model.graph.outputs[1].shape
    same_numbers(model, after, *CASES, atol=2e-6, rtol=1e-5)
    assert not apply(FuseKeyValueCache(), after)[1].modified


@pytest.mark.parametrize("name", ["present_k", "present_v"])
def test_a_cache_that_nobody_takes_out_is_refused(build: Any, apply: Any, name: str) -> None:
    """An unused output is dropped later, and the runtime needs both."""
    taken = {"present_k": "present_v", "present_v": "present_k"}[name]
    model = build(APPEND + ATTEND, outputs=f", float[b, 2, total, 8] {taken}")
    _, outcome = apply(FuseKeyValueCache(), model)
    assert not outcome.modified
    reason = f"'n_{name}' is no output of the graph, so there is no present"
    assert outcome.refusals[0].reason == reason


def test_attention_without_a_mask(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(APPEND + ATTEND.replace(", mask)", ")"))
    after, outcome = apply(FuseKeyValueCache(), model)
    assert outcome.rewrites == 1
    same_numbers(model, after, *CASES, atol=2e-6, rtol=1e-5)


def test_keys_are_appended_before_their_heads_are_repeated(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    repeat = "".join(
        f"{n}5 = Unsqueeze(present_{n}, axis)\n {n}w = Expand({n}5, groups)\n"
        f"{n}r = Reshape({n}w, merged)\n"
        for n in "kv"
    )
    sizes = "two = Add(one, one)\n four = Add(two, two)\n axis = Identity(two)\n"
    sizes += "groups = Concat<axis = 0>(one, one, two, one, one)\n"
    sizes += "b = Shape<start = 0, end = 1>(x)\n t = Shape<start = 2, end = 3>(present_k)\n"
    sizes += "merged = Concat<axis = 0>(b, four, t, width)\n"
    attend = "out = Attention<scale = 0.3>(x, kr, vr, mask)\n"
    model = build(APPEND + sizes + repeat + attend)
    grouped, outcome = apply(GroupKeyValueHeads(), model)
    assert outcome.rewrites == 1
    # The length of what was appended is read by the repetition alone, which is gone.
    after, outcome = apply(FuseKeyValueCache(), grouped)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    same_numbers(model, after, *CASES, atol=2e-6, rtol=1e-5)


def test_a_window_of_a_cache_is_a_past(build: Any, apply: Any, same_numbers: Any) -> None:
    last = "w{0} = Slice(past_{0}, minus_two, most, one2)\n"
    body = last.format("k") + last.format("v") + APPEND.replace("(past_", "(w")
    model = build(body + ATTEND.replace(", mask)", ")"))
    after, outcome = apply(FuseKeyValueCache(), model)
    assert outcome.rewrites == 1
    assert [v.name for v in after.graph[-1].inputs[4:]] == ["wk", "wv"]
    same_numbers(model, after, *CASES[:2], atol=2e-6, rtol=1e-5)


REFUSED = {
    "K alone": (
        APPEND.replace("Concat<axis = 2>(past_v, v)", "Neg(v)") + ATTEND,
        "K alone is appended to a cache",
    ),
    "V alone": (
        APPEND.replace("Concat<axis = -2>(past_k, y)", "Neg(y)") + ATTEND,
        "V alone is appended to a cache",
    ),
    "K joined along the heads": (
        APPEND.replace("axis = -2", "axis = 1") + ATTEND,
        "V alone is appended to a cache",
    ),
    "three parts": (
        APPEND.replace("(past_k, y)", "(past_k, y, y)") + ATTEND,
        "V alone is appended to a cache",
    ),
    "a causal mask": (
        APPEND + ATTEND.replace("scale = 0.3", "scale = 0.3, is_causal = 1"),
        "the causal mask counts from the first key, not from the first new one",
    ),
    "the present is read elsewhere": (
        APPEND + "more = Neg(present_v)\n" + ATTEND,
        "'n_present_v' is also read by Neg 'n_more'",
    ),
    "one cache for K and V": (
        APPEND + ATTEND.replace("present_k, present_v", "present_k, present_k"),
        "K and V are one cache",
    ),
    "two attentions share a cache": (
        APPEND + "more = Attention(y, present_k, present_v)\n" + ATTEND,
        "'n_present_k' is also read by Attention",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(build: Any, apply: Any, name: str) -> None:
    body, reason = REFUSED[name]
    _, outcome = apply(FuseKeyValueCache(), build(body))
    assert not outcome.modified
    refusal = outcome.refusals[-1]
    assert (refusal.rule, refusal.node) == ("fuse-key-value-cache", "n_out")
    assert refusal.reason.startswith(reason)


NO_CANDIDATES = {
    "keys of two texts": "k2 = Neg(past_k)\n v2 = Neg(past_v)\n"
    + APPEND.replace("(past_k", "(k2").replace("(past_v", "(v2")
    + ATTEND,
    "another domain": APPEND + "out = com.microsoft.Attention(x, present_k, present_v)",
    "no cache": "out = Attention(x, y, v)",
    "a cache already": "out = Attention(x, y, v, mask, past_k, past_v)",
    "a cache before another": APPEND
    + "out = Attention(x, present_k, present_v, mask, past_k, past_v)",
    "several outputs": APPEND + "out, k, v2 = Attention(x, present_k, present_v)",
}


@pytest.mark.parametrize("name", NO_CANDIDATES)
def test_the_rest_is_left_alone(build: Any, apply: Any, name: str) -> None:
    _, outcome = apply(FuseKeyValueCache(), build(NO_CANDIDATES[name], outputs=""))
    assert (outcome.rewrites, outcome.refusals) == (0, ())


def test_a_concatenation_of_unknown_rank_stays(build: Any) -> None:
    model = build(APPEND + ATTEND)
    ir.convenience.create_value_mapping(model.graph)["present_k"].shape = None
    outcome = FuseKeyValueCache()(model)
    assert not outcome.modified
    assert outcome.refusals[0].reason == "V alone is appended to a cache"
