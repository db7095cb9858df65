"""Small sound models to start from: what exporters write, and what few of them write.

Every text is a whole ONNX graph; names it reads without defining become random weights of the
shape in `_WEIGHTS`. The graphs are modelled on real exports (fuselage's `benchmarks/families`),
shrunk to hidden 8, two heads of 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

Array = NDArray[np.generic]

_HEADER = """<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1, "own" : 1]>
"""

_ENCODER = """encoder (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, sequence, 8] hidden) {
    x = Gather(words, input_ids)
    mean = ReduceMean<keepdims = 1>(x, last)
    d = Sub(x, mean)
    p = Pow(d, two)
    var = ReduceMean<keepdims = 1>(p, last)
    ve = Add(var, eps)
    std = Sqrt(ve)
    norm = Div(d, std)
    scaled = Mul(norm, gain)
    n = Add(scaled, bias8)
    q0 = MatMul(n, w_q)  q1 = Add(bias8, q0)  q2 = Reshape(q1, split)
    q = Transpose<perm = [0, 2, 1, 3]>(q2)
    k0 = MatMul(n, w_k)  k1 = Add(bias8, k0)  k2 = Reshape(k1, split)
    k = Transpose<perm = [0, 2, 3, 1]>(k2)
    v0 = MatMul(n, w_v)  v1 = Add(bias8, v0)  v2 = Reshape(v1, split)
    v = Transpose<perm = [0, 2, 1, 3]>(v2)
    m1 = Unsqueeze(attention_mask, middle)
    m2 = Cast<to = 1>(m1)
    m3 = Sub(one, m2)
    m4 = Mul(m3, low)
    scores = MatMul(q, k)
    halves = Div(scores, two)
    masked = Add(halves, m4)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, v)
    back = Transpose<perm = [0, 2, 1, 3]>(mixed)
    flat = Reshape(back, join)
    o0 = MatMul(flat, w_o)
    o = Add(bias8, o0)
    r = Add(o, x)
    f0 = MatMul(r, w_up)  f = Add(bias32, f0)
    g0 = Div(f, root_two)  g1 = Erf(g0)  g2 = Add(g1, one)  g3 = Mul(f, g2)  g = Mul(g3, half)
    d0 = MatMul(g, w_down)  d1 = Add(d0, bias8)
    hidden = LayerNormalization<axis = -1, epsilon = 1e-5>(d1, gain, bias8)
}"""

_LEGACY = """legacy (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, sequence, 8] hidden) {
    s = Shape(input_ids)
    b = Gather<axis = 0>(s, zero)  l = Gather<axis = 0>(s, first)
    b1 = Unsqueeze(b, zeros)  l1 = Unsqueeze(l, zeros)
    c2 = Constant<value = int64[1] {2}>()  c4 = Constant<value = int64[1] {4}>()
    c8 = Constant<value = int64[1] {8}>()
    to = Concat<axis = 0>(b1, l1, c2, c4)
    out = Concat<axis = 0>(b1, l1, c8)
    x = Gather(words, input_ids)
    qkv = MatMul(x, w_qkv)
    q0, k0, v0 = Split<axis = 2>(qkv, thirds)
    q1 = Reshape(q0, to)  q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k1 = Reshape(k0, to)  k = Transpose<perm = [0, 2, 3, 1]>(k1)
    v1 = Reshape(v0, to)  v = Transpose<perm = [0, 2, 1, 3]>(v1)
    full = Concat<axis = 0>(b1, one1, l1, l1)
    m1 = Unsqueeze(attention_mask, middle)
    m2 = Expand(m1, full)
    m3 = Cast<to = 1>(m2)
    m4 = Sub(one, m3)
    hide = Cast<to = 9>(m4)
    bias = Where(hide, low, m4)
    range = Range(zero, l, first)
    row = Unsqueeze(range, c_one)
    later = Greater(range, row)
    causal = Where(later, low, zero_f)
    both = Add(bias, causal)
    scale0 = Sqrt(half)
    qs = Mul(q, scale0)  ks = Mul(k, scale0)
    scores = MatMul(qs, ks)
    masked = Add(scores, both)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, v)
    back = Transpose<perm = [0, 2, 1, 3]>(mixed)
    flat = Reshape(back, out)
    p = Pow(flat, three)  p1 = Mul(p, half)  p2 = Add(flat, p1)  p3 = Mul(p2, root_two)
    t = Tanh(p3)  t1 = Add(t, one)  t2 = Mul(flat, half)
    hidden = Mul(t2, t1)
}"""

_DECODER = """decoder (int64[batch, sequence] input_ids, float[batch, 1, past, 4] past_key,
        float[batch, 1, past, 4] past_value) => (float[batch, sequence, 8] hidden,
        float[batch, 1, total, 4] key, float[batch, 1, total, 4] value) {
    x = Gather(words, input_ids)
    sq = Mul(x, x)
    ms = ReduceMean<keepdims = 1>(sq, last)
    me = Add(ms, eps)  rs = Sqrt(me)  ri = Reciprocal(rs)  xn = Mul(x, ri)  n = Mul(xn, gain)
    q0 = MatMul(n, w_q)  q1 = Reshape(q0, split)  q = Transpose<perm = [0, 2, 1, 3]>(q1)
    k0 = MatMul(n, w_k4)  k1 = Reshape(k0, split)  k = Transpose<perm = [0, 2, 1, 3]>(k1)
    v0 = MatMul(n, w_v4)  v1 = Reshape(v0, split)  v = Transpose<perm = [0, 2, 1, 3]>(v1)
    s = Shape<start = 1>(input_ids)  p = Shape<start = 2, end = 3>(past_key)
    s0 = Squeeze(s)  p0 = Squeeze(p)  end = Add(s0, p0)
    at = Range(p0, end, first)
    atf = Cast<to = 1>(at)  col = Unsqueeze(atf, c_one)
    freq = MatMul(col, inverse)
    emb = Concat<axis = -1>(freq, freq)
    cos = Cos(emb)  sin = Sin(emb)
    qa = Slice(q, z1, two1, last)  qb = Slice(q, two1, big, last)  qn = Neg(qb)
    qr = Concat<axis = -1>(qn, qa)  qc = Mul(q, cos)  qd = Mul(qr, sin)  qe = Add(qc, qd)
    ka = Slice(k, z1, two1, last)  kb = Slice(k, two1, big, last)  kn = Neg(kb)
    kr = Concat<axis = -1>(kn, ka)  kc = Mul(k, cos)  kd = Mul(kr, sin)  ke = Add(kc, kd)
    key = Concat<axis = 2>(past_key, ke)
    value = Concat<axis = 2>(past_value, v)
    ku = Unsqueeze(key, two1)  vu = Unsqueeze(value, two1)
    all = Range(zero, end, first)  row = Unsqueeze(at, c_one)
    seen = LessOrEqual(all, row)
    mask = Where(seen, zero_f, low)
    kg = Expand(ku, groups)  kf = Reshape(kg, ungroup)  kt = Transpose<perm = [0, 1, 3, 2]>(kf)
    vg = Expand(vu, groups)  vf = Reshape(vg, ungroup)
    scores = MatMul(qe, kt)  halves = Mul(scores, half)  masked = Add(halves, mask)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, vf)
    back = Transpose<perm = [0, 2, 1, 3]>(mixed)
    flat = Reshape(back, join)
    o = MatMul(flat, w_o)
    r = Add(x, o)
    gate = MatMul(r, w_up)  up = MatMul(r, w_up2)
    sg = Sigmoid(gate)  si = Mul(gate, sg)  act = Mul(si, up)
    down = MatMul(act, w_down)
    hidden = Add(r, down)
}"""

_CONTROL = """control (float[batch, 8] x, bool flag, int64 trips) => (float[batch, 8] y,
        float[steps, batch, 8] z, float[batch, 8] w, float[m, 8] scanned) {
    outer = MatMul(x, w_q)
    y = If(flag) <
        then_branch = t () => (float[batch, 8] a) { a0 = Add(outer, bias8)  a = Relu(a0) },
        else_branch = e () => (float[batch, 8] b) { b = MatMul(outer, w_k) }>
    yes = Constant<value = bool {1}>()
    w, z = Loop(trips, yes, x) <body = l (int64 i, bool c, float[batch, 8] h)
        => (bool go, float[batch, 8] next, float[batch, 8] kept) {
        go = Identity(c)  h1 = Add(h, outer)  next = Tanh(h1)  kept = Mul(next, half) }>
    last_state, scanned = Scan(bias8, x) <num_scan_inputs = 1, body = s (float[8] state,
        float[8] item) => (float[8] grown, float[8] seen) {
        grown = Add(state, item)  seen = Mul(grown, half) }>
}"""

_FUNCTIONS = """functions (float[batch, 8] x) => (float[batch, 8] y) {
    a = own.linear <axis = -1> (x, w_q, bias8)
    b = own.twice(a)
    y = Add(a, b)
}
<domain: "own", opset_import: ["" : 20, "own" : 1]>
linear <axis> (x, w, b) => (y) {
    m = MatMul(x, w)  s = Add(m, b)  y = Softmax<axis: int = @axis>(s) }
<domain: "own", opset_import: ["" : 20, "own" : 1]>
twice (x) => (y) { two = Constant<value = float {2.0}>()  y = Mul(x, two) }"""

_QUANTIZED = """quantized (float[batch, 8] x) => (float[batch, 8] y, float[batch, 8] z) {
    q = QuantizeLinear(x, scale, zero_point)
    d = DequantizeLinear(q, scale, zero_point)
    wd = DequantizeLinear<axis = 1>(w_int8, scales, zero_points)
    m = MatMul(d, wd)
    s = Add(m, bias8)
    y = Relu(s)
    dq, ds, dz = DynamicQuantizeLinear(x)
    mi = MatMulInteger(dq, w_int8, dz)
    mf = Cast<to = 1>(mi)
    z = Mul(mf, ds)
}"""

_KINDS = """kinds (float[batch, 8] x, string[n] text) => (float[batch, 8] y, string[n] joined,
        double[batch, 8] wide, float16[batch, 8] narrow) {
    joined = StringConcat(text, suffix)
    parts = SplitToSequence<axis = 1>(x, four)
    first_part = SequenceAt(parts, zero)
    c = ConcatFromSequence<axis = 1>(parts)
    maybe = Optional(c)
    sure = OptionalGetElement(maybe)
    w = Cast<to = 11>(sure)  w1 = Mul(w, w)  wide = Sqrt(w1)
    h = Cast<to = 10>(x)  h1 = Mul(h, half16)  narrow = Add(h1, half16)
    y = Identity(sure)
}"""

_VISION = """vision (float[batch, 3, 8, 8] pixels) => (float[batch, n, 8] tokens,
        float[batch, 8] pooled) {
    c = Conv<strides = [4, 4], kernel_shape = [4, 4]>(pixels, kernel, bias8)
    r = Reshape(c, patches)
    t = Transpose<perm = [0, 2, 1]>(r)
    e = Expand(cls, cls_shape)
    s = Shape<end = 1>(pixels)
    es = Concat<axis = 0>(s, c_one, c_eight)
    cl = Expand(cls, es)
    j = Concat<axis = 1>(cl, t)
    tokens = LayerNormalization<axis = -1>(j, gain, bias8)
    p = Gather<axis = 1>(tokens, zero)
    g = Gemm<transB = 1>(p, w_q, bias8)
    u = Gelu(g)
    mx = ReduceMax<keepdims = 1>(u, last)
    pooled = Sub(u, mx)
}"""

_CONTRIB = """contrib (float[batch, sequence, 8] x) => (float[batch, sequence, 8] y) {
    f = com.microsoft.FusedMatMul<alpha = 0.5, transB = 1>(x, w_q)
    g = com.microsoft.BiasGelu(f, bias8)
    y, m, v, s = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(g, x, gain, bias8)
}"""

SEEDS: Mapping[str, tuple[str, int]] = {
    "encoder": (_ENCODER, 20),
    "encoder-17": (_ENCODER.replace("(x, last)", "(x)").replace("(p, last)", "(p)")
                   .replace("<keepdims = 1>", "<keepdims = 1, axes = [-1]>"), 17),
    "legacy": (_LEGACY, 18),
    "decoder": (_DECODER, 20),
    "control": (_CONTROL, 21),
    "functions": (_FUNCTIONS, 20),
    "quantized": (_QUANTIZED, 21),
    "kinds": (_KINDS, 20),
    "vision": (_VISION, 20),
    "contrib": (_CONTRIB, 21),
}  # fmt: skip


def _weights() -> dict[str, Array]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return random.normal(0, 0.4, shape).astype(np.float32)

    int64 = {
        "last": [-1], "middle": [1, 2], "split": [0, 0, -1, 4], "join": [0, 0, 8], "zero": 0,
        "first": 1, "zeros": [0], "one1": [1], "c_one": [1], "c_eight": [8], "z1": [0],
        "two1": [2], "big": [2**63 - 1], "groups": [1, 1, 2, 1, 1], "ungroup": [0, 2, -1, 4],
        "thirds": [8, 8, 8], "four": 4, "patches": [0, 8, -1], "cls_shape": [1, 1, 8],
    }  # fmt: skip
    floats = {
        "two": 2.0, "eps": 1e-5, "one": 1.0, "half": 0.5, "root_two": 2**0.5, "three": 3.0,
        "low": float(np.finfo(np.float32).min), "zero_f": 0.0, "scale": 0.05,
    }  # fmt: skip
    shapes = {
        "words": (30, 8), "gain": (8,), "bias8": (8,), "bias32": (32,), "w_q": (8, 8),
        "w_k": (8, 8), "w_v": (8, 8), "w_o": (8, 8), "w_up": (8, 32), "w_up2": (8, 32),
        "w_down": (32, 8), "w_qkv": (8, 24), "w_k4": (8, 4), "w_v4": (8, 4), "inverse": (1, 2),
        "kernel": (8, 3, 4, 4), "cls": (1, 1, 8),
    }  # fmt: skip
    named: dict[str, Array] = {name: np.asarray(value, np.int64) for name, value in int64.items()}
    named |= {name: np.asarray(value, np.float32) for name, value in floats.items()}
    named |= {name: normal(*shape) for name, shape in shapes.items()}
    return named | {
        "zero_point": np.asarray(3, np.uint8),
        "w_int8": random.integers(-90, 90, (8, 8)).astype(np.int8),
        "scales": (np.abs(normal(8)) + np.float32(0.01)).astype(np.float32),
        "zero_points": np.zeros(8, np.int8),
        "half16": np.asarray(0.5, np.float16),
        "suffix": np.asarray(["s"], np.object_),
    }


def make_seed(name: str) -> onnx.ModelProto:
    """One model of `SEEDS` with its weights."""
    text, opset = SEEDS[name]
    model = onnx.parser.parse_model(_HEADER.format(opset=opset) + text)
    read = set(re.findall(r"\w+", text))
    for weight, array in _weights().items():
        if weight in read:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, weight))
    return model


def all_seeds(files: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every seed, then of the given files."""
    for name in SEEDS:
        yield name, make_seed(name).SerializeToString()
    for path in files:
        yield path.stem, path.read_bytes()
