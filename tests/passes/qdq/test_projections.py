"""The linears around an attention are told from the others by structure alone."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir

from fuselage.passes.qdq.policy import QuantPolicy
from fuselage.passes.qdq.projections import attention_projections

HEADER = '<ir_version: 11, opset_import: ["" : 23]>\n'
BLOCK = f"""{HEADER}net (float[b, s, 32] x) => (float[b, s, 32] y) {{
    n = LayerNormalization(x, gain)
    q0 = MatMul(n, wq)
    q1 = Add(q0, bias)
    q = Mul(q1, scale)
    k = MatMul(n, wk)
    v = MatMul(n, wv)
    a = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
    o = MatMul(a, wo)
    r = Add(o, x)
    up = MatMul(r, w1)
    g = Gelu(up)
    down = MatMul(g, w2)
    y = Add(down, r) }}"""


def model(text: str) -> ir.Model:
    random = np.random.default_rng(0)
    shapes = {
        "gain": (32,), "bias": (32,), "scale": (1,), "wq": (32, 32), "wk": (32, 32),
        "wv": (32, 32), "wo": (32, 32), "w1": (32, 64), "w2": (64, 32), "cos": (64, 8),
        "sin": (64, 8), "wqkv": (32, 96),
    }  # fmt: skip
    tensors = [
        ir.tensor(random.normal(0, 1, shape).astype(np.float32), name=name)
        for name, shape in shapes.items()
        if re.search(rf"\b{name}\b", text)
    ]
    return ir.from_onnx_text(text, tensors)


def test_projections_are_found_through_bias_and_scale_and_not_beyond_the_residual() -> None:
    assert attention_projections(model(BLOCK).graph) == {"q0", "k", "v", "o"}


def test_the_second_block_does_not_reach_into_the_first() -> None:
    second = """
    n2 = LayerNormalization(y0, gain)
    q2 = MatMul(n2, wq)
    a2 = Attention<q_num_heads = 2, kv_num_heads = 2>(q2, n2, n2)
    y = MatMul(a2, wo) }"""
    text = BLOCK.replace("y = Add(down, r) }", "y0 = Add(down, r)" + second)
    assert attention_projections(model(text).graph) == {"q0", "k", "v", "o", "q2", "y"}


def test_packed_weights_rotations_and_moves_are_passed_through() -> None:
    text = f"""{HEADER}net (float[b, s, 32] x, int64[b, s] at) => (float[b, s, 32] y) {{
    p = MatMul(x, wqkv)
    q0, k0, v = Split<axis = -1, num_outputs = 3>(p)
    q = RotaryEmbedding<num_heads = 2>(q0, cos, sin, at)
    k = RotaryEmbedding<num_heads = 2>(k0, cos, sin, at)
    a = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
    moved = Transpose<perm = [0, 1, 2]>(a)
    o = MatMul(moved, wo)
    up = MatMul(o, w1)
    y = MatMul(up, w2) }}"""
    assert attention_projections(model(text).graph) == {"p", "o"}


def test_a_policy_without_projections_says_why_they_stay_float() -> None:
    plan = QuantPolicy(projections=False).plan(model(BLOCK))
    assert [linear.output for linear in plan.linears] == ["up", "down"]
    assert {refusal.reason for refusal in plan.refusals} == {
        "the policy keeps the projections of attention in float"
    }
    assert len(QuantPolicy().plan(model(BLOCK)).linears) == 6
