"""Rotations of half heads become RotaryEmbedding, with half tables that everyone shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.normalize.clean_up import CleanUp
from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.rotary import fuse_rotary_embedding
from fuselage.passes.rotary.expand_rotary_caches import ExpandRotaryCaches, expand_caches
from fuselage.passes.rotary.fuse_rotary_embedding import FuseRotaryEmbedding

TABLES = """
    p = Cast<to = 1>(positions)
    p3 = Unsqueeze(p, two)
    angles = Mul(p3, frequencies)
    doubled = Concat<axis = -1>(angles, angles)
    c = Cos(doubled)
    s = Sin(doubled)
    cos = Unsqueeze(c, heads_axis)
    sin = Unsqueeze(s, heads_axis)
"""
SLICED = "lo = Slice(x, zero, four, last, one)\n hi = Slice(x, four, end, last, one)"
SPLIT = "lo, hi = Split<axis = -1, num_outputs = 2>(x)"
SIZED = "lo, hi = Split<axis = 3>(x, halves)"
TURN = """
    n = Neg(hi)
    t = Concat<axis = -1>(n, lo)
    m = Mul(t, sin)
    a = Mul(x, cos)
    y = Add(a, m)
"""
BODIES = {
    "slices": SLICED + TURN,
    "a split": SPLIT + TURN,
    "a sized split": SIZED + TURN,
    "minus one": SLICED + TURN.replace("Neg(hi)", "Mul(hi, minus)"),
    "swapped": SLICED
    + TURN.replace("(t, sin)", "(sin, t)").replace("(x, cos)", "(cos, x)").replace("a, m", "m, a"),
    "own casts": "w = Cast<to = 1>(x)\n" + SLICED.replace("(x", "(w") + TURN,
}
HALVES = """
    lo, hi = Split<axis = -1, num_outputs = 2>(x)
    c3 = Cos(angles)
    s3 = Sin(angles)
    cos = Unsqueeze(c3, heads_axis)
    sin = Unsqueeze(s3, heads_axis)
    a = Mul(lo, cos)
    b = Mul(hi, sin)
    d = Mul(hi, cos)
    e = Mul({0}, sin)
    first = Sub(a, b)
    second = Add({1})
    y = Concat<axis = -1>(first, second)
"""


@pytest.fixture(autouse=True)
def _leave_the_batch_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule alone is looked at; that tables get the batch has a test of its own."""
    monkeypatch.setattr(fuse_rotary_embedding, "expand_caches", lambda _: (0, ()))


@pytest.fixture
def build(parse: Any) -> Any:
    def make(
        body: str, *, x: str = "b, 2, s, 8", batch: str = "1", dtype: str = "float",
        heads_axis: int = 1, more: str = "", tables: str = TABLES, given_input: str = "",
        **changed: Any,
    ) -> ir.Model:  # fmt: skip
        constants = {
            "frequencies": (1 / 10 ** (np.arange(4) / 4)).astype(np.float32),
            "heads_axis": np.array([heads_axis]),
            "zero": np.array([0]),
            "one": np.array([1]),
            "two": np.array([2]),
            "three": np.array([3]),
            "four": np.array([4]),
            "eight": np.array([8]),
            "last": np.array([3]),
            "end": np.array([2**63 - 1]),
            "halves": np.array([4, 4]),
            "minus": np.float32(-1),
            "scaling": np.float32(0.7),
        } | changed
        text = f"""turn ({dtype}[{x}] x, int64[{batch}, s] positions{given_input})
            => ({dtype}[{x}] y{more}) {{ {tables} {body} }}"""
        model: ir.Model = parse(text, **constants)
        InferShapes()(model)
        return model

    return make


def feeds(x: tuple[int, ...], batch: int = 1, *, bshd: bool = False) -> dict[str, Any]:
    random = np.random.default_rng(sum(x))
    sequence = x[1 if bshd else 2]
    return {
        "x": random.normal(0, 1, x).astype(np.float32),
        "positions": random.integers(0, 50, (batch, sequence)),
    }


def compare(before: ir.Model, after: ir.Model, same_numbers: Any, *cases: dict[str, Any]) -> None:
    expanded = after.clone()
    ExpandRotaryCaches()(expanded)
    same_numbers(before, expanded, *cases, atol=2e-6, rtol=1e-5)


def test_bounds_that_are_computed_are_told_by_the_sizes(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    half = """
        shape = Shape(x)
        width = Gather(shape, last)
        half = Div(width, two)
        lo = Slice(x, zero, half, last, one)
        hi = Slice(x, half, end, last, one)
    """
    model = build(half + TURN)
    assert [str(node.outputs[0].shape) for node in model.graph if node.op_type == "Slice"] == [
        "[b,2,s,4]",
        "[b,2,s,4]",
    ]
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)))


def rotary(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "RotaryEmbedding"]


@pytest.mark.parametrize("name", BODIES)
def test_every_spelling_becomes_the_operator(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(BODIES[name])
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = rotary(after)
    assert node.inputs[0] is not None
    assert node.inputs[0].name == "x"
    assert {key: item.as_int() for key, item in node.attributes.items()} == {
        "interleaved": 0,
        "num_heads": 2,
    }
    # The tables come from the angles before they were doubled.
    assert [value.producer().op_type for value in node.inputs[1:]] == ["Cos", "Sin"]
    assert {value.producer().inputs[0].name for value in node.inputs[1:]} == {"angles"}
    assert not {"Concat", "Neg", "Slice", "Split"} & {item.op_type for item in after.graph}
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)), feeds((1, 2, 1, 8)))
    _, second = apply(FuseRotaryEmbedding(), after)
    assert not second.modified


@pytest.mark.parametrize("added", [("lo", "d, e"), ("lo", "e, d")])
def test_halves_turned_one_by_one(
    build: Any, apply: Any, same_numbers: Any, added: tuple[str, str]
) -> None:
    tables = TABLES.partition("doubled")[0]
    model = build(HALVES.format(*added), tables=tables)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert len(rotary(after)) == 1
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)))


def test_halves_that_are_turned_otherwise_are_not(build: Any, apply: Any) -> None:
    tables = TABLES.partition("doubled")[0]
    _, outcome = apply(FuseRotaryEmbedding(), build(HALVES.format("hi", "d, e"), tables=tables))
    assert (outcome.modified, outcome.refusals) == (False, ())


@pytest.mark.parametrize(
    "before_unsqueeze",
    [
        "k = Mul(c, scaling)\n l = Mul(s, scaling)",
        "h = Cast<to = 10>(c)\n k = Cast<to = 1>(h)\n g = Cast<to = 10>(s)\n l = Cast<to = 1>(g)",
        "k = Transpose<perm = [0, 1, 2]>(c)\n l = Slice(s, zero, end, one, one)",
    ],
    ids=["scaled", "cast", "moved"],
)
def test_what_is_done_to_the_tables_is_done_to_the_halves(
    build: Any, apply: Any, same_numbers: Any, before_unsqueeze: str
) -> None:
    tables = TABLES.replace("cos = Unsq", f"{before_unsqueeze}\n cos = Unsq")
    tables = tables.replace("(c, heads_axis)", "(k, heads_axis)")
    tables = tables.replace("(s, heads_axis)", "(l, heads_axis)")
    model = build(BODIES["slices"], tables=tables)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert "Concat" not in [node.op_type for node in after.graph]
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)))


def test_a_scaling_of_one_goes(build: Any, apply: Any) -> None:
    tables = TABLES.replace("cos = Unsqueeze(c", "k = Mul(c, scaling)\n cos = Unsqueeze(k")
    model = build(BODIES["slices"], tables=tables, scaling=np.float32(1))
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph].count("Mul") == 1  # of the angles


@pytest.mark.parametrize(
    "doubled",
    ["doubled = Tile(angles, twice)", "doubled = Concat<axis = 2>(angles, angles)"],
)
def test_other_ways_to_double(build: Any, apply: Any, same_numbers: Any, doubled: str) -> None:
    tables = TABLES.replace("doubled = Concat<axis = -1>(angles, angles)", doubled)
    model = build(BODIES["a split"], tables=tables, twice=np.array([1, 1, 2]))
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    compare(model, after, same_numbers, feeds((2, 2, 5, 8)))


GATHERED = """
    c = Gather(cos_table, positions)
    s = Gather(sin_table, positions)
    cos = Unsqueeze(c, heads_axis)
    sin = Unsqueeze(s, heads_axis)
"""


def constant_tables() -> dict[str, Any]:
    angles = np.outer(np.arange(50), 1 / 10 ** (np.arange(4) / 4))
    doubled = np.concatenate([angles, angles], axis=1)
    return {
        "cos_table": np.cos(doubled).astype(np.float32),
        "sin_table": np.sin(doubled).astype(np.float32),
    }


def test_rows_of_constant_tables(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(BODIES["slices"], tables=GATHERED, batch="b", **constant_tables())
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = rotary(after)
    assert node.inputs[1] is not None
    assert list(node.inputs[1].shape or ()) == ["b", "s", 4]
    compare(model, after, same_numbers, feeds((3, 2, 5, 8), batch=3))


def test_constant_tables_whose_halves_differ_are_refused(build: Any, apply: Any) -> None:
    constants = constant_tables()
    constants["sin_table"][3, 7] += 1e-3
    _, outcome = apply(
        FuseRotaryEmbedding(), build(BODIES["slices"], tables=GATHERED, batch="b", **constants)
    )
    assert not outcome.modified
    assert [r.reason for r in outcome.refusals] == [
        "the table 'sin_table' does not hold equal halves"
    ]


@pytest.mark.parametrize(
    ("shape", "x"),
    [((5, 8), "b, 2, 5, 8"), ((1, 5, 8), "b, 2, 5, 8"), ((1, 1, 5, 8), "b, 2, 5, 8"),
     ((5, 1, 8), "b, 5, 2, 8"), ((1, 5, 1, 8), "b, 5, 2, 8")],
)  # fmt: skip
def test_constant_positions(
    build: Any, apply: Any, same_numbers: Any, shape: tuple[int, ...], x: str
) -> None:
    arrays = {name: array[:5].reshape(shape) for name, array in constant_tables().items()}
    body = BODIES["slices"].replace("cos)", "cos_table)").replace("sin)", "sin_table)")
    model = build(body, tables="", x=x, **arrays)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = rotary(after)
    assert [list(value.shape or ()) for value in node.inputs[1:] if value] == [[1, 5, 4]] * 2
    dims = tuple(int(dim) if dim.isdigit() else 3 for dim in x.split(", "))
    case = feeds(dims, bshd="2, 8" in x)
    compare(model, after, same_numbers, case)


@pytest.mark.parametrize("swapped_after", [True, False])
def test_heads_behind_the_sequence(
    build: Any, apply: Any, same_numbers: Any, swapped_after: bool
) -> None:
    body, more = BODIES["slices"], ""
    if swapped_after:
        body, more = body + "z = Transpose<perm = [0, 2, 1, 3]>(y)", ", float[b, 2, s, 8] z"
    model = build(body, x="b, s, 2, 8", heads_axis=2, more=more)
    if swapped_after:
        model.graph.outputs.pop(0)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    operators = [node.op_type for node in after.graph]
    assert operators.count("Transpose") == (1 if swapped_after else 2)
    compare(model, after, same_numbers, feeds((3, 5, 2, 8), bshd=True))


def test_the_graph_runs_for_several_texts_at_once(
    build: Any, apply: Any, same_numbers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator wants the batch of x in its tables; without it the pass is rolled back."""
    monkeypatch.setattr(fuse_rotary_embedding, "expand_caches", expand_caches)
    model = build(BODIES["slices"])
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert [value.producer().op_type for value in rotary(after)[0].inputs[1:]] == ["Expand"] * 2
    same_numbers(model, after, feeds((3, 2, 5, 8)), feeds((1, 2, 1, 8)), atol=2e-6, rtol=1e-5)


def test_queries_keys_and_layers_share_one_pair_of_tables(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    again = BODIES["slices"]
    for name in ("lo", "hi", "n", "t", "m", "a"):
        again = again.replace(f"{name} =", f"{name}2 =").replace(f"({name}, ", f"({name}2, ")
        again = again.replace(f", {name})", f", {name}2)").replace(f"({name})", f"({name}2)")
    again = again.replace("y =", "z =").replace("(x,", "(y,")
    model = build(BODIES["slices"] + again, more=", float[b, 2, s, 8] z")
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 2
    first, second = rotary(after)
    assert first.inputs[1:] == second.inputs[1:]
    assert [node.op_type for node in after.graph].count("Cos") == 1
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)))
    expanded, outcome = apply(ExpandRotaryCaches(), after)
    assert outcome.rewrites == 2
    assert [node.op_type for node in expanded.graph].count("Expand") == 2  # cos and sin


PARTIAL = """
    {parts}
    lo = Slice(head, zero, four, last, one)
    hi = Slice(head, four, end, last, one)
    n = Neg(hi)
    t = Concat<axis = -1>(n, lo)
    m = Mul(t, sin)
    a = Mul(head, cos)
    turned = Add(a, m)
    y = Concat<axis = -1>({order})
"""
PARTS = {
    "slices": "head = Slice(x, zero, eight, last, one)\n rest = Slice(x, eight, end, last, one)",
    "a split": "head, rest = Split<axis = -1>(x, sizes)",
}


@pytest.mark.parametrize("parts", PARTS)
def test_the_rest_of_a_head_passes_through_the_operator(
    build: Any, apply: Any, same_numbers: Any, parts: str
) -> None:
    body = PARTIAL.format(parts=PARTS[parts], order="turned, rest")
    model = build(body, x="b, 2, s, 14", sizes=np.array([8, 6]))
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = rotary(after)
    assert node.inputs[0] is not None
    assert node.inputs[0].name == "x"
    assert node.attributes["rotary_embedding_dim"].as_int() == 8
    assert not {"Concat", "Slice", "Split"} & {item.op_type for item in after.graph}
    compare(model, after, same_numbers, feeds((3, 2, 5, 14)))


def test_an_empty_rest_goes(build: Any, apply: Any, same_numbers: Any) -> None:
    body = PARTIAL.format(parts=PARTS["slices"].replace("eight", "sixteen"), order="turned, rest")
    body = body.replace("four", "eight")
    frequencies = (1 / 10 ** (np.arange(8) / 8)).astype(np.float32)
    model = build(body, x="b, 2, s, 16", sixteen=np.array([16]), frequencies=frequencies)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = rotary(after)
    assert "rotary_embedding_dim" not in node.attributes
    assert "Concat" not in [item.op_type for item in after.graph]
    compare(model, after, same_numbers, feeds((3, 2, 5, 16)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rest = Slice(x, eight, end", "rest = Slice(x, eight, twelve"),  # columns are dropped
        ("rest = Slice(x, eight, end", "o = Neg(x)\n rest = Slice(o, eight, end"),
        ("rest = Slice(x, eight, end", "rest = Slice(x, four, end"),  # columns appear twice
        ("y = Concat<axis = -1>(turned, rest)", "y = Concat<axis = -1>(turned, rest, rest)"),
    ],
)
def test_another_rest_stays_outside(
    build: Any, apply: Any, same_numbers: Any, old: str, new: str
) -> None:
    body = PARTIAL.format(parts=PARTS["slices"], order="turned, rest")
    assert old in body
    model = build(
        body.replace(old, new).replace("y =", "z ="),
        x="b, 2, s, 14",
        more=", float[b, 2, s, w] z",
        twelve=np.array([12]),
    )
    model.graph.outputs.pop(0)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 1
    assert "rotary_embedding_dim" not in rotary(after)[0].attributes
    assert "Concat" in [item.op_type for item in after.graph]
    compare(model, after, same_numbers, feeds((3, 2, 5, 14)))


def test_a_rest_appended_as_heads_stays_outside(build: Any, apply: Any, same_numbers: Any) -> None:
    body = PARTIAL.format(parts=PARTS["slices"], order="turned, rest")
    body = body.replace("y = Concat<axis = -1>", "z = Concat<axis = 1>")
    model = build(body, x="b, 2, s, 16", more=", float[b, 4, s, 8] z")
    model.graph.outputs.pop(0)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 1
    assert "rotary_embedding_dim" not in rotary(after)[0].attributes
    compare(model, after, same_numbers, feeds((3, 2, 5, 16)))


def test_a_rest_that_comes_first_stays_outside(build: Any, apply: Any, same_numbers: Any) -> None:
    body = PARTIAL.format(parts=PARTS["slices"], order="rest, turned")
    model = build(body, x="b, 2, s, 14")
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 1
    (node,) = rotary(after)
    assert "rotary_embedding_dim" not in node.attributes
    assert "Concat" in [item.op_type for item in after.graph]
    compare(model, after, same_numbers, feeds((3, 2, 5, 14)))


@pytest.mark.parametrize("scaled", ["Mul(q, scaling)", "Div(q, scaling)", "Mul(scaling, q)"])
def test_a_scale_before_the_rotation_follows_it(
    build: Any, apply: Any, same_numbers: Any, scaled: str
) -> None:
    model = build(f"q = Neg(x)\n w = {scaled}\n" + BODIES["slices"].replace("(x,", "(w,"))
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 1
    operators = [node.op_type for node in after.graph if node.op_type in ("Neg", "RotaryEmbedding")]
    assert operators == ["Neg", "RotaryEmbedding"]
    assert after.graph[-1].op_type == scaled[:3]
    assert rotary(after)[0].inputs[0].name == "q"  # type: ignore[union-attr]
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)))
    _, second = apply(FuseRotaryEmbedding(), after)
    assert not second.modified


def test_half_precision_is_rotated_in_float32_as_written(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    body = "w = Cast<to = 1>(x)\n" + BODIES["slices"].replace("(x", "(w").replace("y =", "z =")
    model = build(body + "y = Cast<to = 10>(z)", dtype="float16")
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    case = feeds((3, 2, 5, 8))
    case["x"] = case["x"].astype(np.float16)
    expanded, _ = apply(ExpandRotaryCaches(), after)
    same_numbers(model, expanded, case, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Slice(x, four,", "Slice(x, two,", "'lo' and 'hi' are columns (0, 4, 2, 8), no halves"),
        ("(x, zero, four,", "(x, zero, two,", "'lo' and 'hi' are columns (0, 2, 4, 8), no halves"),
        (SLICED, SLICED.replace("four", "three"), "'lo' and 'hi' are columns (0, 3, 3, 8), no"),
        ("hi = Slice(x,", "o = Neg(x)\n hi = Slice(o,", "'lo' and 'hi' are parts of two tensors"),
        ("hi = Slice(x, four, end, last, one)", "hi = Abs(lo)", "'lo' and 'hi' are no parts of"),
        ("a = Mul(x, cos)", "o = Neg(x)\n a = Mul(o, cos)", "'x' is turned, but the product that"),
        (
            "(angles, angles)",
            "(angles, other)",
            "the table 'doubled', from Concat 'n_doubled', cannot be shown to hold equal halves",
        ),
    ],
)
def test_refusals_name_the_nearest_miss(
    build: Any, apply: Any, old: str, new: str, reason: str
) -> None:
    tables = TABLES.replace("doubled", "other = Neg(angles)\n    doubled", 1)
    body = BODIES["slices"]
    assert old in body + tables
    model = build(body.replace(old, new), tables=tables.replace(old, new))
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert not outcome.modified
    assert rotary(after) == []
    assert [refusal.node for refusal in outcome.refusals] == ["n_y"]
    assert outcome.refusals[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 2, 5, 8), "the table 'cos_table' [1,2,5,8] differs between heads"),
        ((1, 1, 1, 8), "the table 'cos_table' [1,1,1,8] is one for all positions"),
        ((8,), "the table 'cos_table' has shape [8], expected 2 to 4 dimensions"),
    ],
)
def test_tables_of_other_shapes_are_refused(
    build: Any, apply: Any, shape: tuple[int, ...], reason: str
) -> None:
    body = BODIES["slices"].replace("cos)", "cos_table)").replace("sin)", "sin_table)")
    arrays = dict.fromkeys(("cos_table", "sin_table"), np.ones(shape, np.float32))
    _, outcome = apply(FuseRotaryEmbedding(), build(body, tables="", x="b, 2, 5, 8", **arrays))
    assert not outcome.modified
    assert [refusal.reason for refusal in outcome.refusals] == [reason]


def test_tables_that_broadcast_along_different_axes_are_refused(build: Any, apply: Any) -> None:
    rows = np.tile(np.arange(4, dtype=np.float32), (2, 2))
    model = build(
        BODIES["slices"], tables="", x="b, 2, 2, 8", cos=rows[None, None], sin=rows[None, :, None]
    )
    _, outcome = apply(FuseRotaryEmbedding(), model)
    assert [r.reason for r in outcome.refusals] == ["cos and sin broadcast along different axes"]


@pytest.mark.parametrize(
    ("change", "operator", "changed"),
    [
        ("k = Concat<axis = 1>(c, c)\n l = Concat<axis = 1>(s, s)", "Concat", {}),
        (
            "k = Slice(c, zero, eight, two, one)\n l = Slice(s, zero, eight, two, one)",
            "Slice",
            {"frequencies": np.ones(8, np.float32)},
        ),
        ("k = Transpose<perm = [0, 2, 1]>(c)\n l = Transpose<perm = [0, 2, 1]>(s)", "Tr", {}),
    ],
    ids=["rows twice", "columns lost", "rows and columns swapped"],
)
def test_tables_that_were_doubled_before_something_else_are_refused(
    build: Any, apply: Any, change: str, operator: str, changed: dict[str, Any]
) -> None:
    tables = TABLES.replace("cos = Unsq", f"{change}\n cos = Unsq")
    tables = tables.replace("(c, heads_axis)", "(k, heads_axis)")
    tables = tables.replace("(s, heads_axis)", "(l, heads_axis)")
    model = build(BODIES["a split"], tables=tables, x="b, 2, t, 8", **changed)
    _, outcome = apply(FuseRotaryEmbedding(), model)
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert refusal.reason.startswith(f"the table 'k', from {operator}")
    assert refusal.reason.endswith("cannot be shown to hold equal halves")


def test_tables_that_are_fed_are_refused(build: Any, apply: Any) -> None:
    body = BODIES["slices"].replace("cos)", "given)").replace("sin)", "given)")
    model = build(body, tables="", given_input=", float[1, 1, s, 8] given")
    _, outcome = apply(FuseRotaryEmbedding(), model)
    assert [r.reason for r in outcome.refusals] == ["the table 'given' is not computed here"]


def test_three_dimensions_are_refused(build: Any, apply: Any) -> None:
    body = BODIES["a split"].replace("cos)", "c)").replace("sin)", "s)")
    _, outcome = apply(FuseRotaryEmbedding(), build(body, x="b, s, 8"))
    assert [r.reason for r in outcome.refusals] == ["'x' has shape [b,s,8], expected 4 dimensions"]


PAIRS = """
    even = Slice(x, zero, end, last, two)
    odd = Slice(x, one, end, last, two)
    n = Neg(odd)
    n5 = Unsqueeze(n, four)
    e5 = Unsqueeze(even, minus_one)
    stacked = Concat<axis = -1>(n5, e5)
    t = Reshape(stacked, flat)
    m = Mul(t, sin)
    a = Mul(x, cos)
    y = Add(a, m)
"""
TWICE = {
    "repeated": "u = Unsqueeze(angles, last)\n w = Expand(u, twice)\n doubled = Reshape(w, wide)",
    "stacked": "u = Unsqueeze(angles, minus_one)\n w = Concat<axis = 3>(u, u)\n"
    "doubled = Reshape(w, wide)",
    "tiled": "u = Unsqueeze(angles, minus_one)\n w = Tile(u, twice)\n doubled = Reshape(w, wide)",
}
PAIR_CONSTANTS = {
    "minus_one": np.array([-1]),
    "flat": np.array([0, 0, 0, 8]),
    "wide": np.array([0, 0, 8]),
    "twice": np.array([1, 1, 1, 2]),
}


def paired(name: str) -> str:
    return TABLES.replace("doubled = Concat<axis = -1>(angles, angles)", TWICE[name])


@pytest.mark.parametrize("name", TWICE)
def test_neighbours_that_are_rotated(build: Any, apply: Any, same_numbers: Any, name: str) -> None:
    model = build(PAIRS, tables=paired(name), **PAIR_CONSTANTS)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (node,) = rotary(after)
    assert node.attributes["interleaved"].as_int() == 1
    assert not {"Reshape", "Concat", "Slice"} & {item.op_type for item in after.graph}
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)), feeds((1, 2, 1, 8)))


def test_axes_of_tables_that_were_added_at_once(build: Any, apply: Any, same_numbers: Any) -> None:
    tables = (
        TABLES.partition("doubled")[0]
        + """
        c = Cos(angles)
        s = Sin(angles)
        cu = Unsqueeze(c, heads_and_last)
        su = Unsqueeze(s, heads_and_last)
        ct = Tile(cu, twice)
        st = Tile(su, twice)
        cos = Reshape(ct, wide)
        sin = Reshape(st, wide)
    """
    )
    changed = {
        "heads_and_last": np.array([2, 4]),
        "twice": np.array([1, 1, 1, 1, 2]),
        "wide": np.array([0, 0, 0, 8]),
    }
    model = build(PAIRS, tables=tables, x="b, s, 2, 8", **(PAIR_CONSTANTS | changed))
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert [value.producer().op_type for value in rotary(after)[0].inputs[1:]] == ["Cos", "Sin"]
    compare(model, after, same_numbers, feeds((3, 5, 2, 8), bshd=True))


def test_neighbours_by_constant_tables(build: Any, apply: Any, same_numbers: Any) -> None:
    angles = np.repeat(np.outer(np.arange(5), 1 / 10 ** (np.arange(4) / 4)), 2, axis=1)
    arrays = {"cos": np.cos(angles), "sin": np.sin(angles)}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    model = build(PAIRS, tables="", x="b, 2, 5, 8", **arrays, **PAIR_CONSTANTS)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    compare(model, after, same_numbers, feeds((3, 2, 5, 8)))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Slice(x, one, end", "Slice(x, zero, end", "'even' and 'odd' are not the even and the"),
        ("odd = Slice(x,", "o = Neg(x)\n odd = Slice(o,", "'even' and 'odd' are columns of two"),
        (
            "(angles, angles)",
            "(angles, angles)",
            "the table 'doubled', from Concat 'n_doubled', cannot be shown to hold equal neighb",
        ),
    ],
)
def test_neighbours_that_are_none(build: Any, apply: Any, old: str, new: str, reason: str) -> None:
    tables = TABLES if old == new else paired("repeated")
    assert old in PAIRS + tables
    model = build(PAIRS.replace(old, new), tables=tables, **PAIR_CONSTANTS)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert rotary(after) == []
    assert [refusal.node for refusal in outcome.refusals] == ["n_y"]
    assert outcome.refusals[0].reason.startswith(reason)


def test_halves_with_tables_of_neighbours_are_refused(build: Any, apply: Any) -> None:
    model = build(BODIES["slices"], tables=paired("repeated"), **PAIR_CONSTANTS)
    _, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.refusals[0].reason == (
        "the table 'doubled', from Reshape 'n_doubled', cannot be shown to hold equal halves"
    )


def test_other_sums_of_products_are_not_candidates(build: Any, apply: Any) -> None:
    for body in (
        "a = Mul(x, cos)\n m = Mul(x, sin)\n y = Add(a, m)",
        SLICED + TURN.replace("Neg(hi)", "Mul(hi, scaling)"),
        SLICED
        + "t = Concat<axis = -1>(hi, lo)\n a = Mul(x, cos)\n m = Mul(t, sin)\n y = Add(a, m)",
    ):
        _, outcome = apply(FuseRotaryEmbedding(), build(body))
        assert (outcome.modified, outcome.refusals) == (False, ())


def test_equal_tables_of_layers_become_one(build: Any, apply: Any) -> None:
    """What exporters repeat a layer is shared before the halves are taken."""
    copy = TABLES
    for name in ("p3", "angles", "doubled", "c", "s", "cos", "sin", "p"):
        copy = copy.replace(f"    {name} =", f"    {name}_again =")
        copy = copy.replace(f"({name})", f"({name}_again)").replace(f"({name},", f"({name}_again,")
        copy = copy.replace(f", {name})", f", {name}_again)")
    body = BODIES["slices"].replace("(t, sin)", "(t, sin_again)")
    model = build(body, tables=TABLES + copy)
    CleanUp()(model)
    after, outcome = apply(FuseRotaryEmbedding(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph].count("Mul") == 1
