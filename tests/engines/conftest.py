"""A small encoder in the canonical dialect, in float and with Q/DQ, and feeds for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig
from fuselage.graph.model import Graph
from fuselage.graph.tensors import Array, ShapeProfile

HIDDEN, INNER, WORDS = 32, 64, 100

_BODY = """
<ir_version: 10, opset_import: ["" : 23]>
tiny (int64[batch, sequence] ids, int64[batch, sequence] mask) => (float[batch, 32] pooled)
{{
    x = Gather(words, ids)
    {up}
    up_b = Add(up, bias_up)
    g = Gelu(up_b)
    down = MatMul(g, w_down)
    down_b = Add(down, bias_down)
    residual = Add(down_b, x)
    normed = LayerNormalization<epsilon = 1e-12>(residual, gamma, beta)
    m = Cast<to = 1>(mask)
    m3 = Unsqueeze(m, last)
    kept = Mul(normed, m3)
    total = ReduceSum<keepdims = 0>(kept, middle)
    count = ReduceSum<keepdims = 1>(m, middle)
    floor = Max(count, one)
    pooled = Div(total, floor)
}}
"""
_FLOAT = "up = MatMul(x, w_up)"
_QDQ = """
    xq = QuantizeLinear(x, x_scale, x_zero)
    xd = DequantizeLinear(xq, x_scale, x_zero)
    wd = DequantizeLinear<axis = 1>(w_up_q, w_scale, w_zero)
    up = MatMul(xd, wd)
"""


def _weights() -> dict[str, Array]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return random.normal(0, 0.2, shape).astype(np.float32)

    return {
        "words": normal(WORDS, HIDDEN),
        "w_up": normal(HIDDEN, INNER),
        "bias_up": normal(INNER),
        "w_down": normal(INNER, HIDDEN),
        "bias_down": normal(HIDDEN),
        "gamma": 1 + normal(HIDDEN),
        "beta": normal(HIDDEN),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
        "one": np.array([1], np.float32),
    }


def _graph(body: str, weights: dict[str, Array]) -> Graph:
    text = _BODY.format(up=body)
    return Graph(ir.from_onnx_text(text, [ir.tensor(a, name=n) for n, a in weights.items()]))


@pytest.fixture
def tiny() -> Graph:
    """Gather, feed-forward block, layer norm, masked mean: float32 [batch, 32]."""
    return _graph(_FLOAT, _weights())


@pytest.fixture
def tiny_int8() -> Graph:
    """The same with the first MatMul in Q/DQ: uint8 activations, int8 weights per channel."""
    weights = _weights()
    w_up = weights.pop("w_up")
    scale = (np.abs(w_up).max(axis=0) / 127).astype(np.float32)
    weights |= {
        "x_scale": np.float32(0.8 / 127).reshape(()),
        "x_zero": np.uint8(128).reshape(()),
        "w_up_q": np.clip(np.rint(w_up / scale), -127, 127).astype(np.int8),
        "w_scale": scale,
        "w_zero": np.zeros(INNER, np.int8),
    }
    return _graph(_QDQ, weights)


@pytest.fixture
def config() -> BuildConfig:
    return BuildConfig(
        profile=ShapeProfile({"batch": (1, 4, 8), "sequence": (1, 8, 16)}), threads=1
    )


@pytest.fixture
def feeds() -> Callable[[int, int], dict[str, Array]]:
    """feeds(batch, sequence): random ids, and masks of every length from 1 up."""

    def make(batch: int, sequence: int) -> dict[str, Array]:
        random = np.random.default_rng(batch * 1000 + sequence)
        lengths = 1 + np.arange(batch) % sequence
        return {
            "ids": random.integers(0, WORDS, (batch, sequence)),
            "mask": (np.arange(sequence) < lengths[:, None]).astype(np.int64),
        }

    return make
