"""Cached decoders in ONNX text, modelled on the canonical graphs of Llama and GPT-2."""

from __future__ import annotations

from typing import Any

import numpy as np

HEADS, KV_HEADS, SIZE = 4, 2, 16
WIDTH, KV_WIDTH = HEADS * SIZE, KV_HEADS * SIZE
VOCABULARY = 50
POSITIONS = 40
"""Rows of the position table."""

CAUSAL = "keep = LessOrEqual(keys, row)"
PADDED = """
    causal = LessOrEqual(keys, row)
    shown = Cast<to = 9>(attention_mask)
    shown4 = Unsqueeze(shown, axes_12)
    keep = And(causal, shown4)"""
WINDOW = """
    causal = LessOrEqual(keys, row)
    first = Sub(row, window)
    near = Greater(keys, first)
    keep = And(causal, near)"""
CHUNKS = """
    causal = LessOrEqual(keys, row)
    of_key = Div(keys, window)
    of_row = Div(row, window)
    chunk = Equal(of_key, of_row)
    keep = And(causal, chunk)"""

ROTARY = """
    angles = Cast<to = 1>(position)
    column = Unsqueeze(angles, axes_02)
    angle = Mul(column, frequencies)
    cos1 = Cos(angle)
    sin1 = Sin(angle)
    rows = Shape<start = 0, end = 1>(input_ids)
    full = Concat<axis = 0>(rows, ones_2)
    cos = Expand(cos1, full)
    sin = Expand(sin1, full)
    x_0 = Identity(words_x)"""
TABLE = """
    shifted = Add(position, two)
    place = Gather(places, shifted)
    x_0 = Add(words_x, place)"""


def decoder(
    *,
    layers: int = 2,
    mask: str = PADDED,
    positions: str = ROTARY,
    concat: bool = False,
    flat: bool = False,
    window: int = 6,
) -> tuple[str, dict[str, Any]]:
    """Text and constants of a decoder with grouped queries.

    Args:
        layers: number of blocks.
        mask: how ``keep`` is made of ``keys`` and ``row``; bool [..., sequence, total].
        positions: ROTARY, or TABLE for learnt ones with an offset of 2.
        concat: whether the cache is concatenated in front of an Attention that knows no cache;
            keys then have as many heads as queries.
        flat: whether Attention splits the heads.
        window: keys that WINDOW shows, and the size of a chunk in CHUNKS.
    """
    pads = "int64[batch, total] attention_mask, " if "attention_mask" in mask else ""
    heads = HEADS if concat else KV_HEADS
    caches = [f"{part}_{layer}" for layer in range(layers) for part in ("key", "value")]
    pasts = ", ".join(f"float[batch, {heads}, past, {SIZE}] past_{name}" for name in caches)
    presents = ", ".join(f"float[batch, {heads}, total, {SIZE}] present_{name}" for name in caches)
    blocks = "".join(
        _block(layer, concat=concat, flat=flat, rotary=positions is ROTARY)
        for layer in range(layers)
    )
    text = f"""decoder (int64[batch, sequence] input_ids, {pads}{pasts})
        => (float[batch, sequence, {VOCABULARY}] logits, {presents})
    {{
    words_x = Gather(words, input_ids)
    before_1 = Shape<start = 2, end = 3>(past_key_0)
    new_1 = Shape<start = 1, end = 2>(input_ids)
    before = Squeeze(before_1)
    new = Squeeze(new_1)
    after = Add(before, new)
    steps = Range(zero, new, one)
    position = Add(steps, before)
    keys = Range(zero, after, one)
    row = Unsqueeze(position, axes_1)
    {mask}
    hidden = Where(keep, nothing, fill)
    bias = Expand(hidden, ones_4)
    {positions}
    {blocks}
    normed = RMSNormalization<axis = -1>(x_{layers}, gamma)
    logits = MatMul(normed, head)
    }}"""
    return text, _constants(layers, heads) | {"window": np.array(window)}


def _block(layer: int, *, concat: bool, flat: bool, rotary: bool) -> str:
    i = layer
    lines = [f"{part}_{i} = MatMul(x_{i}, w{part}_{i})" for part in "qkv"]
    if not flat:
        for part in "qkv":
            split = "split_q" if part == "q" else "split_kv"
            lines.append(f"{part}4_{i} = Reshape({part}_{i}, {split})")
            lines.append(f"{part}t_{i} = Transpose<perm = [0, 2, 1, 3]>({part}4_{i})")
    kind = "t" if not flat else ""
    names = {part: f"{part}{kind}_{i}" for part in "qkv"}
    if rotary and not flat:
        for part in "qk":
            lines.append(f"{part}r_{i} = RotaryEmbedding({names[part]}, cos, sin)")
            names[part] = f"{part}r_{i}"
    q, k, v = names["q"], names["k"], names["v"]
    if concat:
        lines.append(f"present_key_{i} = Concat<axis = 2>(past_key_{i}, {k})")
        lines.append(f"present_value_{i} = Concat<axis = -2>(past_value_{i}, {v})")
        lines.append(
            f"a_{i} = Attention<scale = 0.25>({q}, present_key_{i}, present_value_{i}, bias)"
        )
    else:
        counts = f", q_num_heads = {HEADS}, kv_num_heads = {KV_HEADS}" if flat else ""
        lines.append(
            f"a_{i}, present_key_{i}, present_value_{i} = Attention<scale = 0.25{counts}>"
            f"({q}, {k}, {v}, bias, past_key_{i}, past_value_{i})"
        )
    merged = f"a_{i}"
    if not flat:
        lines.append(f"at_{i} = Transpose<perm = [0, 2, 1, 3]>(a_{i})")
        lines.append(f"am_{i} = Reshape(at_{i}, merge)")
        merged = f"am_{i}"
    lines.append(f"o_{i} = MatMul({merged}, wo_{i})")
    lines.append(f"x_{i + 1} = Add(x_{i}, o_{i})")
    return "\n    ".join(lines) + "\n    "


def _constants(layers: int, heads: int) -> dict[str, Any]:
    random = np.random.default_rng(5)

    def normal(*shape: int) -> Any:
        return random.normal(0, 0.3, shape).astype(np.float32)

    weights = {}
    for i in range(layers):
        weights |= {f"wq_{i}": normal(WIDTH, WIDTH), f"wo_{i}": normal(WIDTH, WIDTH)}
        weights |= {f"w{part}_{i}": normal(WIDTH, heads * SIZE) for part in "kv"}
    return weights | {
        "words": normal(VOCABULARY, WIDTH),
        "places": normal(POSITIONS, WIDTH),
        "head": normal(WIDTH, VOCABULARY),
        "gamma": 1 + normal(WIDTH),
        "frequencies": (10.0 ** -np.linspace(0, 2, SIZE // 2)).astype(np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array(2),
        "half": np.float32(0.5),
        "nothing": np.float32(0),
        "fill": np.float32(-1e9),
        "axes_1": np.array([1]),
        "axes_02": np.array([0, 2]),
        "axes_12": np.array([1, 2]),
        "ones_2": np.array([1, 1]),
        "ones_4": np.array([1, 1, 1, 1]),
        "split_q": np.array([0, 0, HEADS, SIZE]),
        "split_kv": np.array([0, 0, heads, SIZE]),
        "merge": np.array([0, 0, WIDTH]),
    }


class Replay:
    """Feeds a static-cache graph chunk by chunk and asks the growing-cache graph for the answer.

    Args:
        growing: runs the canonical graph: feeds -> outputs by name.
        static: runs the lowered graph.
        slots: rows of the static cache.
        length: tokens a slot holds.
        heads: heads of a cache.
        layers: number of blocks.
    """

    def __init__(
        self, growing: Any, static: Any, *, slots: int, length: int, heads: int, layers: int = 2
    ) -> None:
        self._growing, self._static = growing, static
        self._random = np.random.default_rng(3)
        shape = (slots, heads, length, SIZE)
        self._names = [f"{part}_{i}" for i in range(layers) for part in ("key", "value")]
        # Dirty on purpose: what lies beyond a row's length must not be looked at.
        self._caches = {
            name: self._random.normal(0, 30, shape).astype(np.float32) for name in self._names
        }
        self.texts: list[list[int]] = [[] for _ in range(slots)]

    def step(self, *lengths: int) -> float:
        """Give each row that many new tokens, padded at the end; the largest difference."""
        width = max(lengths)
        ids = self._random.integers(0, VOCABULARY, (len(lengths), width))
        feeds = {"input_ids": ids, "write_indices": np.array([len(t) for t in self.texts])}
        feeds |= {f"past_{name}": cache for name, cache in self._caches.items()}
        outputs = self._static(feeds)
        self._caches = {name: outputs[f"present_{name}"] for name in self._names}
        worst = 0.0
        for row, new in enumerate(lengths):
            self.texts[row] += ids[row, :new].tolist()
            if new:
                wanted = self._whole(self.texts[row])[-new:]
                worst = max(worst, float(np.abs(outputs["logits"][row, :new] - wanted).max()))
        return worst

    def _whole(self, text: list[int]) -> Any:
        shape = (1, next(iter(self._caches.values())).shape[1], 0, SIZE)
        feeds = {"input_ids": np.array([text])}
        feeds |= {f"past_{name}": np.zeros(shape, np.float32) for name in self._names}
        return self._growing(feeds | {"attention_mask": np.ones((1, len(text)), np.int64)})[
            "logits"
        ][0]
