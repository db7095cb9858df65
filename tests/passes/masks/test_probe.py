"""Masks that mean something else are refused, with the first position that differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.masks.meaning import Miss
from fuselage.passes.masks.probe import meaning_of_cone
from fuselage.passes.masks.sizes import Geometry
from fuselage.passes.normalize.infer_shapes import InferShapes

SQUARE = Geometry(batch="b", queries="s", keys="s")
CROSS = Geometry(batch="b", queries="s", keys="t")
CONSTANTS = {
    "f0": np.float32(0),
    "f1": np.float32(1),
    "quarter": np.float32(0.25),
    "weak": np.float32(-9999),
    "lowest": np.finfo(np.float32).min,
    "axes12": np.array([1, 2], np.int64),
    "axes13": np.array([1, 3], np.int64),
    "a0": np.array([0], np.int64),
    "a012": np.array([0, 1, 2], np.int64),
    "a013": np.array([0, 1, 3], np.int64),
    "one": np.array([1], np.int64),
    "i0": np.int64(0),
    "i1": np.int64(1),
    "i2": np.int64(2),
    "w8": np.int64(8),
    "w300": np.int64(300),
    "w301": np.int64(301),
    "w5000": np.int64(5000),
    "far5000": np.int64(5000),
    "w9000": np.int64(9000),
    "pad_id": np.int64(4711),
    "slope": np.array([0.5, 0.25], np.float32).reshape(1, 2, 1, 1),
    "embedding": np.ones((9, 4), np.float32),
    "big": np.zeros((1, 1, 4097, 4097), np.int8),
}
HEAD = """net (int64[b, s] padding, int64[b, s] ids, int64[b, t] other, float[b, s, 16] q,
    float[b, 1, s, s] ready, int64[n, 5] images) => (float[b, h, q, k] mask) {"""
ROW = """
    shown = Cast<to = 9>(padding)
    row = Unsqueeze(shown, axes12)
"""
BAND = (
    ROW
    + """
    b1 = Shape<start = 0, end = 1>(padding)
    s1 = Shape<start = 1, end = 2>(padding)
    s0 = Squeeze(s1)
    keys = Range(i0, s0, i1)
    k4 = Unsqueeze(keys, a012)
    q4 = Unsqueeze(keys, a013)
    gap = Sub(q4, k4)
    far = Abs(gap)
    full = Concat<axis = 0>(b1, one, s1, s1)
"""
)
HIDE = "mask = Where(both, f0, lowest)"


def meaning_in(parse: Any, body: str, geometry: Geometry = SQUARE, **options: bool) -> str:
    model = parse(f"{HEAD} {body} }}", **CONSTANTS)
    InferShapes()(model)
    root = model.graph.outputs[0]
    return str(meaning_of_cone(root, geometry, model.graph, 23, **options)[0])


NEAR: dict[str, tuple[str, str]] = {
    "up to itself": ("near = LessOrEqual(k4, q4)", "causal"),
    "before itself": ("near = Less(k4, q4)", "at most -1 ahead"),
    "one ahead": ("up = Add(q4, i1)\n near = LessOrEqual(k4, up)", "at most 1 ahead"),
    "8 far": ("near = LessOrEqual(far, w8)", "at most 8 back, at most 8 ahead"),
    "less than 8 far": ("near = Less(far, w8)", "at most 7 back, at most 7 ahead"),
    "300 far": ("near = LessOrEqual(far, w300)", "at most 300 back, at most 300 ahead"),
    "5000 back": ("low = Sub(q4, w5000)\n near = Greater(k4, low)", "at most 4999 back"),
    "300 back, 301 ahead": (
        "low = Sub(q4, w300)\n up = Add(q4, w301)\n back = GreaterOrEqual(k4, low)\n"
        "ahead = Less(k4, up)\n near = And(back, ahead)",
        "at most 300 back, at most 300 ahead",
    ),
}


@pytest.mark.parametrize("name", NEAR)
def test_limits_are_exact(parse: Any, name: str) -> None:
    body, meaning = NEAR[name]
    got = meaning_in(parse, f"{BAND} {body}\n both = And(row, near)\n {HIDE}")
    assert got == f"padding by padding, {meaning}"


def test_a_condition_that_hides_is_read_inverted(parse: Any) -> None:
    assert meaning_in(parse, ROW + "mask = Not(row)", hides=True) == "padding by padding"
    with pytest.raises(Miss, match="hides every key of every query"):
        meaning_in(parse, BAND + "wide = Expand(row, full)\n mask = Not(wide)")


REFUSED: dict[str, tuple[str, str]] = {
    "blocks of 8": (
        BAND + "qb = Div(q4, w8)\n kb = Div(k4, w8)\n near = Equal(qb, kb)\n"
        "both = And(row, near)\n" + HIDE,
        "at 75 queries and 75 keys, row 0 query 1 key 8 is hidden",
    ),
    "every other key": (
        BAND + "half = Div(gap, i2)\n twice = Mul(half, i2)\n even = Equal(gap, twice)\n"
        "both = And(row, even)\n" + HIDE,
        "at 2 queries and 2 keys, row 1 query 0 key 1 is hidden",
    ),
    "a bias a head": (
        BAND + "farf = Cast<to = 1>(far)\n alibi = Mul(farf, slope)\n"
        "pad = Where(row, f0, lowest)\n mask = Add(pad, alibi)",
        "row 1 query 0 key 1 is given 0.5",
    ),
    "a bias a distance": (
        BAND + "farf = Cast<to = 1>(far)\n pad = Where(row, f0, lowest)\n mask = Sub(pad, farf)",
        "row 1 query 0 key 1 is given -1",
    ),
    "a small bias a distance": (
        BAND + "farf = Cast<to = 1>(far)\n part = Mul(farf, quarter)\n"
        "pad = Where(row, f0, lowest)\n mask = Sub(pad, part)",
        "row 1 query 0 key 1 is given -0.25",
    ),
    "padding of the queries alone": (
        BAND + "col = Unsqueeze(shown, axes13)\n both = Expand(col, full)\n" + HIDE,
        "at 2 queries and 2 keys, row 1 query 0 key 1 is hidden",
    ),
    "inverted": (ROW + "mask = Where(row, lowest, f0)", "hides every key of every query"),
    "a fill too weak": (ROW + "mask = Where(row, f0, weak)", "key 0 is given -9999"),
    "the first row for all": (
        BAND + "first = Slice(row, a0, one, a0)\n both = Expand(first, full)\n" + HIDE,
        "row 1 query 0 key 0 is",
    ),
    "segments too": (
        ROW + "other0 = Equal(ids, i0)\n o4 = Unsqueeze(other0, axes12)\n both = And(row, o4)\n"
        + HIDE,
        "the mask depends on ids, padding, not on one padding mask",
    ),
    "ids that are looked up": (
        "words = Cast<to = 6>(ids)\n found = Gather(embedding, words)\n same = Equal(ids, pad_id)\n"
        "kept = Not(same)\n both = Unsqueeze(kept, axes12)\n" + HIDE,
        "the mask depends on ids, which holds ids: a table is read at them",
    ),
    "a padding that changes nothing": (
        BAND + "hid = Not(row)\n all = Or(row, hid)\n both = Expand(all, full)\n" + HIDE,
        "row 0 query 0 key 0 is kept",
    ),
    "a foreign operator": (
        ROW + "pad = Where(row, f0, lowest)\n mask = Softmax(pad)",
        "the mask is computed with Softmax",
    ),
    "three dimensions": (
        ROW + "wide = Squeeze(row, one)\n mask = Where(wide, f0, lowest)",
        "it has 3 dimensions, not 4",
    ),
    "an input": ("mask = Identity(ready)", r"depends on ready of shape \[b,1,s,s\], not 2-D"),
    "5000 that is no limit": (
        BAND + "wide = Mul(far, w5000)\n near = LessOrEqual(wide, w8)\n both = And(row, near)\n"
        + HIDE,
        "the mask holds the constants 5000; sizes are tried to 2048",
    ),
    "limits far apart": (
        BAND + "low = Sub(q4, w5000)\n up = Add(q4, w9000)\n back = Greater(k4, low)\n"
        "ahead = Less(k4, up)\n near = And(back, ahead)\n both = And(row, near)\n" + HIDE,
        "the mask holds the constants 5000, 9000",
    ),
    "a limit taken twice": (
        BAND + "low = Sub(q4, w5000)\n lower = Sub(low, far5000)\n near = Greater(k4, lower)\n"
        "both = And(row, near)\n" + HIDE,
        "do not move the mask by as much as they are moved",
    ),
    "a table too large": (
        BAND + "zeros4 = Concat<axis = 0>(a0, a0, a0, a0)\n"
        "cut = Concat<axis = 0>(one, one, s1, s1)\n part = Slice(big, zeros4, cut)\n"
        "near = Cast<to = 9>(part)\n both = And(row, near)\n" + HIDE,
        r"the mask reads the constant 'big' of shape \[1,1,4097,4097\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_are_refused_with_the_reason(parse: Any, name: str) -> None:
    body, reason = REFUSED[name]
    with pytest.raises(Miss, match=reason):
        meaning_in(parse, body)


def test_a_size_that_can_be_read_in_two_ways_is_refused(parse: Any) -> None:
    model = parse(
        """net (int64[b, keys] padding, float[b, n, 16] x) => (float[b, h, q, k] mask) {
        total = Shape<start = 1, end = 2>(padding)
        some = Shape<start = 1, end = 2>(x)
        t0 = Squeeze(total)
        n0 = Squeeze(some)
        keys0 = Range(i0, t0, i1)
        last = Sub(t0, n0)
        seen = LessOrEqual(keys0, last)
        wide = Unsqueeze(seen, a012)
        mask = Where(wide, f0, lowest) }""",
        **CONSTANTS,
    )
    InferShapes()(model)
    geometry = Geometry(batch="b", queries="new", keys="keys")
    with pytest.raises(Miss, match="the sizes keys, n can be read in more than one way"):
        meaning_of_cone(model.graph.outputs[0], geometry, model.graph, 23)


@pytest.mark.parametrize("keys", [1_000_000, 2**23])
def test_masks_too_large_to_be_run_are_refused(parse: Any, keys: int) -> None:
    """No tensor of that size is made: 2**23 queries and keys are 64 TiB."""
    model = parse(
        f"""net (float[b, {keys}, 16] x) => (float[b, h, q, k] mask) {{
        size = Shape<start = 1, end = 2>(x)
        total = Squeeze(size)
        keys0 = Range(i0, total, i1)
        seen = GreaterOrEqual(keys0, i0)
        wide = Unsqueeze(seen, a012)
        mask = Where(wide, f0, lowest) }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    geometry = Geometry(batch="b", queries=keys, keys=keys)
    with pytest.raises(Miss, match=f"{keys} queries and {keys} keys would have to be tried"):
        meaning_of_cone(model.graph.outputs[0], geometry, model.graph, 23)


@pytest.mark.parametrize(("keys", "wanted"), [(7, "no mask"), (9, None)])
def test_constant_sizes_are_tried_alone(parse: Any, keys: int, wanted: str | None) -> None:
    model = parse(
        f"""net (float[b, {keys}, 16] x) => (float[b, h, q, k] mask) {{
        size = Shape<start = 1, end = 2>(x)
        t0 = Squeeze(size)
        places = Range(i0, t0, i1)
        k4 = Unsqueeze(places, a012)
        q4 = Unsqueeze(places, a013)
        gap = Sub(q4, k4)
        near = Less(gap, w8)
        mask = Where(near, f0, lowest) }}""",
        **CONSTANTS,
    )
    InferShapes()(model)
    geometry = Geometry(batch="b", queries=keys, keys=keys)
    found, roles = meaning_of_cone(model.graph.outputs[0], geometry, model.graph, 23)
    assert roles.is_square
    assert str(found) == (wanted or "at most 7 back")


def test_masks_of_any_type_of_padding(parse: Any) -> None:
    for t, body in {
        "bool": "row = Unsqueeze(padding, axes12)",
        "float": "shown = Cast<to = 9>(padding)\n row = Unsqueeze(shown, axes12)",
        "int32": "shown = Cast<to = 9>(padding)\n row = Unsqueeze(shown, axes12)",
    }.items():
        text = f"net ({t}[b, s] padding) => (float[b, h, q, k] mask)"
        model = parse(f"{text} {{ {body}\n mask = Where(row, f0, lowest) }}", **CONSTANTS)
        InferShapes()(model)
        found, _ = meaning_of_cone(model.graph.outputs[0], SQUARE, model.graph, 23)
        assert str(found) == "padding by padding"


def test_a_padding_mask_may_be_as_long_as_other_keys(parse: Any) -> None:
    body = ROW.replace("padding", "other") + "mask = Where(row, f0, lowest)"
    assert meaning_in(parse, body, CROSS) == "padding by other"
