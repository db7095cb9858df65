"""The biases of K and V leave attention: K's changes nothing, V's becomes a constant behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.lowering.fold_attention_bias import FoldAttentionBias
from fuselage.passes.normalize.infer_shapes import InferShapes

HIDDEN, HEADS, KV_HEADS = 8, 4, 2
BODY = """
    qm = MatMul(x, wq)  q = Add(qm, bq)
    km = MatMul(x, wk)  k = Add(km, bk)
    vm = MatMul(x, wv)  v = Add(bv, vm)
    a = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v, mask)
    om = MatMul(a, wo)
    y = Add(om, bo)
"""


def weights() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    shapes = {
        "wq": (HIDDEN, 8), "wk": (HIDDEN, 4), "wv": (HIDDEN, 4), "wo": (8, HIDDEN),
        "bq": (8,), "bk": (4,), "bv": (4,), "bo": (HIDDEN,),
    }  # fmt: skip
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str = BODY, outputs: str = "float[b, s, 8] y") -> ir.Model:
        model = parse(
            f"f (float[b, s, 8] x, float[b, 1, s, s] mask) => ({outputs}) {{ {body} }}", **weights()
        )
        InferShapes()(model)
        return model  # type: ignore[no-any-return]

    return make


def feeds(batch: int, s: int) -> dict[str, Any]:
    random = np.random.default_rng(batch * 10 + s)
    keep = np.arange(s) < s - np.arange(batch)[:, None] % s
    keep[-1] = False  # a row without any key spreads evenly: its weights still sum to one
    mask = np.where(keep, 0, -3e38).astype(np.float32)[:, None, None, :]
    return {
        "x": random.normal(0, 1, (batch, s, HIDDEN)).astype(np.float32),
        "mask": np.broadcast_to(mask, (batch, 1, s, s)).copy(),
    }


def test_both_biases_go_and_the_answer_stays(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build()
    after, outcome = apply(FoldAttentionBias(), model)
    assert (outcome.rewrites, outcome.refusals) == (2, ())
    adds = [node.name for node in after.graph if node.op_type == "Add"]
    assert adds == ["n_q", "n_y"]
    same_numbers(model, after, feeds(3, 7), feeds(1, 1), atol=5e-6, rtol=1e-5)
    _, second = apply(FoldAttentionBias(), after)
    assert not second.modified


def test_the_value_bias_is_shared_by_the_query_heads_of_its_group(build: Any, apply: Any) -> None:
    after, _ = apply(FoldAttentionBias(), build())
    bias = after.graph.initializers["bo.folded"].const_value
    assert bias is not None
    value = weights()
    spread = np.concatenate([value["bv"][:2]] * 2 + [value["bv"][2:]] * 2)
    np.testing.assert_allclose(bias.numpy(), value["bo"] + spread @ value["wo"], rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("kv_num_heads = 2>", "kv_num_heads = 2, softcap = 5.0>", "its scores are capped"),
        ("a = Attention", "a, pk, pv = Attention", "its keys and values are kept in a cache"),
    ],
)
def test_what_a_constant_would_change_is_refused(
    build: Any, apply: Any, old: str, new: str, reason: str
) -> None:
    assert old in BODY
    _, outcome = apply(FoldAttentionBias(), build(BODY.replace(old, new)))
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node) == ("fold-attention-bias", "n_a")
    assert refusal.reason.startswith(reason)


@pytest.mark.parametrize(
    ("body", "rewrites", "left"),
    [
        # Another reader of v sees the bias; nothing but K's goes.
        (BODY.replace("y = Add(om, bo)", "y0 = Add(om, bo)  n = Neg(v)  y = Concat<axis = 2>(y0, n)"
                      ), 1, {"q", "v", "y0"}),
        # Behind the output product there is no bias to add to.
        (BODY.replace("om = MatMul(a, wo)\n    y = Add(om, bo)", "y = MatMul(a, wo)"), 1,
         {"q", "v"}),
        # K is turned after its bias: the term differs by key.
        (BODY.replace("Attention<q_num_heads = 4, kv_num_heads = 2>(q, k,",
                      "Attention<q_num_heads = 4, kv_num_heads = 2>(q, kt,").replace(
            "    a =", "    kt = Tanh(k)\n    a ="), 1, {"q", "k", "y"}),
    ],
    ids=["v is read twice", "no bias behind", "k is changed after"],
)  # fmt: skip
def test_only_what_is_safe_goes(
    build: Any, apply: Any, same_numbers: Any, body: str, rewrites: int, left: set[str]
) -> None:
    width = 12 if "Concat" in body else 8
    model = build(body, f"float[b, s, {width}] y")
    after, outcome = apply(FoldAttentionBias(), model)
    assert outcome.rewrites == rewrites
    assert {node.outputs[0].name for node in after.graph if node.op_type == "Add"} == left
    same_numbers(model, after, feeds(2, 5), atol=5e-6, rtol=1e-5)


def test_a_graph_output_keeps_its_bias(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(outputs="float[b, s, 8] y, float[b, s, 4] k")
    after, outcome = apply(FoldAttentionBias(), model)
    assert outcome.rewrites == 1
    same_numbers(model, after, feeds(2, 5), atol=5e-6, rtol=1e-5)
