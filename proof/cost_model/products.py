"""Operations of products and attentions; the texts beside each are in `operators`."""

from __future__ import annotations

from typing import NamedTuple

from .polynomial import ZERO, Polynomial, product
from .site import Site, UncountableError

SOFTMAX = 5
"""Of a score: its share of the maximum, the difference, exp, its share of the sum, the quotient."""


def multiply(site: Site) -> Polynomial:
    """MatMul and its integer forms: a multiplication and an addition for each pair."""
    return site.out * _depth(site) * 2


def multiply_scaled(site: Site) -> Polynomial:
    """MatMulIntegerToFloat: the product, its scale, its bias."""
    return multiply(site) + site.out * (2 if site.has(6) else 1)


def multiply_quantizing(site: Site) -> Polynomial:
    """DynamicQuantizeMatMul: range and codes of the left side, the product, its scale, its bias."""
    return multiply(site) + site.elements(0) * 5 + site.out * (2 if site.has(4) else 1)


def multiply_requantizing(site: Site) -> Polynomial:
    """QLinearMatMul: the product, then scale, rounding and zero point."""
    return site.out * site.size(0, -1) * 2 + site.out * 3


def multiply_packed(site: Site) -> Polynomial:
    """MatMulNBits: the product with [N, K] weights, each of which is shifted and scaled."""
    depth, channels = site.int_attribute("K", 0), site.int_attribute("N", 0)
    if not depth or not channels:
        raise UncountableError("it has no K or N")
    bias = site.out if site.has(5) else ZERO
    return site.out * depth * 2 + 2 * depth * channels + bias


def fused_multiply(site: Site) -> Polynomial:
    """FusedMatMul: transposed operands, and a factor when it is not 1."""
    scale = 0 if site.float_attribute("alpha", 1.0) == 1.0 else 1
    return multiply(site) + site.out * scale


def gemm(site: Site) -> Polynomial:
    """Gemm: the product, its addend, and the factors that are not 1."""
    extra = 1 if site.has(2) else 0
    extra += site.float_attribute("alpha", 1.0) != 1.0
    extra += site.has(2) and site.float_attribute("beta", 1.0) != 1.0
    return multiply(site) + site.out * extra


def convolve(site: Site) -> Polynomial:
    """Conv: each output reads a window of all channels of its group."""
    window = product(site.dims(1)[1:])
    return site.out * window * 2 + (site.out if site.has(2) else ZERO)


def _depth(site: Site) -> Polynomial:
    transposed = site.int_attribute("transA", 0)
    return site.size(0, -2 if transposed else -1)


class _Scores(NamedTuple):
    """What an attention computes: [batch, heads, queries, keys] scores from heads of a width."""

    batch: Polynomial
    heads: int
    queries: Polynomial
    keys: Polynomial
    width: int
    value_width: int

    def operations(self, per_score: int) -> Polynomial:
        each = 2 * self.width + 2 * self.value_width + SOFTMAX + per_score
        return self.batch * self.queries * self.keys * (self.heads * each)


def attend(site: Site) -> Polynomial:
    """Attention of the standard: scores, scale, mask, soft cap, softmax, weighted sum."""
    past = site.size(4, 2) if site.has(4) else ZERO
    extra = 1 + site.has(3) + site.int_attribute("is_causal", 0)
    extra += 3 if site.float_attribute("softcap", 0.0) else 0
    if len(site.dims(0)) == 4:
        scores = _Scores(
            site.size(0, 0),
            site.number(0, 1),
            site.size(0, 2),
            site.size(1, 2) + past,
            site.number(0, 3),
            site.number(2, 3),
        )
    else:
        heads, shared = site.int_attribute("q_num_heads", 0), site.int_attribute("kv_num_heads", 0)
        scores = _Scores(
            site.size(0, 0),
            heads,
            site.size(0, 1),
            site.size(1, 1) + past,
            _share(site.number(0, 2), heads),
            _share(site.number(2, 2), shared),
        )
    return scores.operations(extra)


def attend_heads(site: Site) -> Polynomial:
    """MultiHeadAttention: q, k and v with their biases, then an attention."""
    heads = site.int_attribute("num_heads", 0)
    past = site.size(6, 2) if site.has(6) else ZERO
    extra = 1 + site.has(4) + site.has(5)
    bias = ZERO
    if len(site.dims(0)) == 5:
        width = site.number(0, 4)
        scores = _Scores(
            site.size(0, 0), heads, site.size(0, 1), site.size(0, 1) + past, width, width
        )
        return scores.operations(extra) + (site.elements(0) if site.has(3) else ZERO)
    if site.has(3):
        bias = site.elements(0) + site.elements(1) + site.elements(2)
    split = len(site.dims(1)) == 4  # keys of another stack come with their heads apart
    scores = _Scores(
        site.size(0, 0),
        heads,
        site.size(0, 1),
        site.size(1, 2 if split else 1) + past,
        _share(site.number(0, 2), heads),
        site.number(2, 3) if split else _share(site.number(2, 2), heads),
    )
    return scores.operations(extra) + bias


def project_and_attend(site: Site) -> Polynomial:
    """Attention and QAttention of ONNX Runtime: one product to q, k and v, bias, attention."""
    heads, channels = site.int_attribute("num_heads", 0), site.number(1, 1)
    tokens = site.size(0, 0) * site.size(0, 1)
    width = _share(channels, 3 * heads)
    scores = _Scores(site.size(0, 0), heads, site.size(0, 1), site.size(0, 1), width, width)
    projected = tokens * channels
    return projected * site.size(0, 2) * 2 + projected + scores.operations(2)


def attend_groups(site: Site) -> Polynomial:
    """GroupQueryAttention: causal attention over the cache and what is appended to it."""
    heads, shared = site.int_attribute("num_heads", 0), site.int_attribute("kv_num_heads", 0)
    packed = not site.has(1)
    width = _share(site.number(0, 2), heads + (2 * shared if packed else 0))
    past = site.size(3, 2) if site.has(3) else ZERO
    queries = site.size(0, 1)
    return _Scores(site.size(0, 0), heads, queries, queries + past, width, width).operations(2)


def _share(channels: int, heads: int) -> int:
    if heads < 1 or channels % heads:
        raise UncountableError(f"{channels} channels are not {heads} heads")
    return channels // heads
