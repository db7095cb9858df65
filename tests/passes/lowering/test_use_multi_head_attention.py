"""Attention as ONNX Runtime's contributed operator, where both say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.lowering.use_multi_head_attention import UseMultiHeadAttention
from fuselage.passes.normalize.infer_shapes import InferShapes

INPUTS = "float[b, s, 8] q, float[b, s, 8] k, float[b, s, 8] v, float[b, 1, s, s] mask"
HEADS = "q_num_heads = 2, kv_num_heads = 2"


def build(parse: Any, body: str, inputs: str = INPUTS) -> Any:
    model = parse(f"f ({inputs}) => (float[b, s, 8] y) {{ {body} }}")
    InferShapes()(model)
    return model


def feeds(batch: int, s: int) -> dict[str, Any]:
    random = np.random.default_rng(s)
    made = {name: random.normal(0, 1, (batch, s, 8)).astype(np.float32) for name in "qkv"}
    keep = np.arange(s) < s - np.arange(batch)[:, None] % s
    mask = np.where(keep, 0, -1e30).astype(np.float32)[:, None, None, :]
    return made | {"mask": np.broadcast_to(mask, (batch, 1, s, s)).copy()}


@pytest.mark.parametrize(
    "body",
    [
        f"y = Attention<{HEADS}>(q, k, v, mask)",
        f"y = Attention<{HEADS}, scale = 0.2>(q, k, v, mask)",
        f"y = Attention<{HEADS}>(q, k, v)",
        f"y = Attention<{HEADS}, is_causal = 1>(q, k, v)",
    ],
    ids=["mask", "scale", "plain", "causal"],
)
def test_the_contributed_operator_answers_alike(
    parse: Any, apply: Any, same_numbers: Any, body: str
) -> None:
    model = build(parse, body)
    after, outcome = apply(UseMultiHeadAttention(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = after.graph
    assert (node.domain, node.op_type) == ("com.microsoft", "MultiHeadAttention")
    same_numbers(model, after, feeds(3, 7), feeds(1, 1), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "inputs", "reason"),
    [
        ("y = Attention<q_num_heads = 2, kv_num_heads = 1>(q, k, v, mask)",
         INPUTS.replace("8] k", "4] k").replace("8] v", "4] v"),
         "2 query heads share 1 key/value heads"),
        (f"y = Attention<{HEADS}, softcap = 3.0>(q, k, v, mask)", INPUTS, "its scores are capped"),
        (f"y = Attention<{HEADS}>(q, k, v, mask)", INPUTS.replace("float[b, 1", "bool[b, 1"),
         "its mask is BOOL"),
        (f"y = Attention<{HEADS}>(q, k, v, mask)", INPUTS.replace("[b, 1, s, s]", "[s, s]"),
         "its mask is FLOAT of shape [s,s]"),
        (f"y = Attention<{HEADS}>(q, k, v, mask)", INPUTS.replace("[b, 1,", "[1, 1,"),
         "its mask is shared by the batch"),
        (f"y, pk, pv = Attention<{HEADS}>(q, k, v, mask)", INPUTS, "it has a cache"),
    ],
    ids=["grouped", "capped", "boolean", "rank", "batch", "cache"],
)  # fmt: skip
def test_what_it_cannot_say_is_refused(
    parse: Any, apply: Any, body: str, inputs: str, reason: str
) -> None:
    _, outcome = apply(UseMultiHeadAttention(), build(parse, body, inputs))
    assert not outcome.modified
    assert outcome.refusals[0].reason.startswith(reason)


def test_four_dimensions_are_refused(parse: Any, apply: Any) -> None:
    shape = "float[b, 2, s, 4]"
    model = parse(
        f"f ({shape} q, {shape} k, {shape} v) => ({shape} y) {{ y = Attention(q, k, v) }}"
    )
    assert apply(UseMultiHeadAttention(), model)[1].refusals[0].reason == (
        "its heads are split outside"
    )
