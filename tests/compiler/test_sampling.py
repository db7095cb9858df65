"""Feeds for graphs of every family, with the symbols and names that exporters give them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.input_roles import input_roles, size_of, size_plans
from fuselage.compiler.checks.sampling import CASES, Case, Sample, draw
from fuselage.errors import CalibrationError
from fuselage.graph.model import Graph

MIXED = """net (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask,
         bool[batch, sequence] key_mask, int64[batch, sequence] token_type_ids,
         float[batch, 3] scores, float[batch, 1, sequence, sequence] bias_mask,
         int64[batch, 4, rows, columns] grid)
        => (float[batch, sequence, 2] y)
    {
        small = Gather(few, input_ids)
        big = Gather(words, input_ids)
        flipped = Neg(input_ids)
        inner = Gather(tiny, flipped)
        picked = Gather(scores, input_ids)
        both0 = Equal(input_ids, limit)
        cast = Cast<to = 6>(token_type_ids)
        types = Gather(segments, cast)
        both = Add(big, small)
        y = Add(both, types)
    }"""
CACHED = """net (int64[s56, s70] a, int64[s43, s53] b, float[s56, 4, s69, 8] c,
         float[s56, 4, s89, 8] d)
        => (float[s56, s70, 2] y)
    { y = Gather(words, a)
      m = Cast<to = 1>(b)
      k = Concat<axis = 2>(c, d) }"""


def graph_of(text: str) -> Graph:
    tables = {"words": 50, "few": 20, "segments": 3, "tiny": 2}
    tensors = [ir.tensor(np.ones((n, 2), np.float32), name=name) for name, n in tables.items()]
    tensors.append(ir.tensor(np.array([5]), name="limit"))
    tensors = [tensor for tensor in tensors if tensor.name and f"{tensor.name}" in text]
    return Graph(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 23]> {text}', tensors))


def samples(graph: Graph, seed: int = 0) -> list[Sample]:
    roles = input_roles(graph)
    plan = next(size_plans(roles))
    return [draw(roles, plan, case, seed) for case in CASES]


@pytest.fixture
def graph() -> Graph:
    return graph_of(MIXED)


def test_the_cases_cover_batch_one_sequence_one_an_empty_cache_and_hidden_rows() -> None:
    assert any(case.batch == 1 for case in CASES)
    assert any(case.sequence == 1 for case in CASES)
    assert any(case.past == 0 for case in CASES)
    assert any(case.padding == "hidden" for case in CASES)
    first = CASES[0]
    sizes = (first.batch, first.sequence, first.target, first.past, first.past + first.sequence)
    assert len(set(sizes)) == 5


def test_every_input_has_its_dtype_and_dims(graph: Graph) -> None:
    for sample in samples(graph):
        batch, sequence = sample.case.batch, sample.case.sequence
        feeds = sample.feeds
        assert list(feeds) == [spec.name for spec in graph.inputs]
        for spec in graph.inputs:
            assert feeds[spec.name].dtype == np.dtype(spec.dtype)
        assert feeds["scores"].shape == (batch, 3)
        assert len(np.unique(feeds["scores"])) == feeds["scores"].size  # drawn, not 0 and 1
        assert feeds["bias_mask"].shape == (batch, 1, sequence, sequence)
        assert feeds["grid"].shape == (batch, 4, sequence, sequence)


def test_ids_stay_inside_the_smallest_table_they_index(graph: Graph) -> None:
    drawn = np.concatenate([sample.feeds["input_ids"].ravel() for sample in samples(graph)])
    assert drawn.min() >= 0
    assert 10 < drawn.max() < 20
    types = np.concatenate([sample.feeds["token_type_ids"].ravel() for sample in samples(graph)])
    assert set(types) == {0, 1, 2}


def test_right_padding_hides_little_and_never_a_whole_row(graph: Graph) -> None:
    for sample in samples(graph):
        if sample.case.padding == "hidden":
            continue
        for name in ("attention_mask", "key_mask"):
            mask = sample.feeds[name].astype(np.int64)
            assert (mask[:, 0] == 1).all()
            assert (np.diff(mask, axis=1) <= 0).all()
            assert (mask == 0).sum(axis=1).max() <= 3  # a window of 4 still sees a key
        assert sample.feeds["attention_mask"][0].all()  # one row is full
        assert sample.redrawn is None
    hidden = (samples(graph)[0].feeds["attention_mask"] == 0).sum(axis=1)
    assert len(set(hidden.tolist())) == 3


def test_hidden_rows_come_with_other_tokens_where_the_mask_hides_one(graph: Graph) -> None:
    sample = samples(graph)[-1]
    assert sample.redrawn is not None
    mask = sample.feeds["attention_mask"]
    assert mask[0].all()
    assert not mask[1, 0]
    assert mask[1, -1]
    assert not mask[2].any()
    assert sample.empty_rows.tolist() == [False, False, True]
    for name in ("input_ids", "token_type_ids"):
        differs = sample.feeds[name] != sample.redrawn[name]
        np.testing.assert_array_equal(differs, mask == 0)
        assert sample.redrawn[name].max() < (20 if name == "input_ids" else 3)
    for name in ("attention_mask", "grid", "scores"):
        np.testing.assert_array_equal(sample.feeds[name], sample.redrawn[name])


def test_a_seed_gives_one_set_of_feeds(graph: Graph) -> None:
    first, again, other = (samples(graph, seed) for seed in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        for name in one.feeds:
            np.testing.assert_array_equal(one.feeds[name], two.feeds[name])
    assert any(
        not np.array_equal(one.feeds["scores"], two.feeds["scores"])
        for one, two in zip(first, other, strict=True)
    )


def test_a_cached_decoder_is_recognised_without_names() -> None:
    graph = graph_of(CACHED)
    assert [role.kind for role in input_roles(graph)] == ["ids", "mask", "cache", "cache"]
    for sample in samples(graph):
        case, feeds = sample.case, sample.feeds
        assert feeds["a"].shape == (case.batch, case.sequence)
        assert feeds["b"].shape == (case.batch, case.past + case.sequence)
        assert feeds["c"].shape == feeds["d"].shape == (case.batch, 4, case.past, 8)
        if sample.redrawn is not None:  # the mask ends with the tokens, the cache stays
            hidden = feeds["b"][:, case.past :] == 0
            np.testing.assert_array_equal(feeds["a"] != sample.redrawn["a"], hidden)
            np.testing.assert_array_equal(feeds["c"], sample.redrawn["c"])
    assert next(role.limit for role in input_roles(graph)) == 50


@pytest.mark.parametrize(
    ("inputs", "kinds", "shapes"),
    [
        ("float[s99, 3, 32, 32] x", ["other"], [(3, 3, 32, 32)]),
        ("float[n, 3, h, w] x", ["image"], [(3, 3, 32, 32)]),
        ("float[n, s, 16] x, int64[m, t] y", ["other", "mask"], [(3, 7, 16), (3, 7)]),
        ("int64[b, \"p + s\"] y, float[b, 2, p, 4] x, float[b, s, 8] z",
         ["mask", "cache", "other"], [(3, 11), (3, 2, 4, 4), (3, 7, 8)]),
        ("int64[1, 128] y", ["mask"], [(1, 128)]),
        ("float[n, k] x", ["other"], [(3, 7)]),
    ],
)  # fmt: skip
def test_sizes_follow_from_structure(
    inputs: str, kinds: list[str], shapes: list[tuple[int, ...]]
) -> None:
    text = f"net ({inputs.replace(chr(34), '')}) => (float[q] o) {{ o = Identity(tiny) }}"
    if "p + s" in inputs:
        text = text.replace("p + s", "total")
    graph = graph_of(text)
    if "p + s" in inputs:
        graph.model.graph.inputs[0].shape = ir.Shape(["b", "p + s"])
    roles = input_roles(graph)
    assert [role.kind for role in roles] == kinds
    sample = draw(roles, next(size_plans(roles)), CASES[0])
    assert [array.shape for array in sample.feeds.values()] == shapes


def test_positions_count_on_from_the_cache() -> None:
    text = """net (int64[b, s] p, int64[b, s] i, float[b, 2, m, 4] c) => (float[b, s] y)
    { f = Cast<to = 1>(p)
      a = Mul(f, frequency)
      y = Sin(a)
      e = Gather(words, i) }"""
    graph = graph_of(text.replace("frequency", "limit"))
    roles = input_roles(graph)
    assert [role.kind for role in roles] == ["position", "ids", "cache"]
    case = Case(batch=2, sequence=3, target=1, past=5)
    feeds = draw(roles, next(size_plans(roles)), case).feeds
    assert feeds["p"].tolist() == [[5, 6, 7]] * 2


def test_ids_of_two_stacks_have_two_lengths() -> None:
    text = """net (int64[b, s] i, int64[c, s] m, int64[b, t] d) => (float[b, s, 2] y)
    { y = Gather(words, i)
      z = Gather(few, d) }"""
    feeds = samples(graph_of(text))[0].feeds
    assert [array.shape for array in feeds.values()] == [(3, 7), (3, 7), (3, 5)]


def test_dims_may_be_arithmetic() -> None:
    assert size_of("s69 + s70", {"s69": 3, "s70": 4}) == 7
    assert size_of("2*s - 1", {"s": 4}) == 7
    assert size_of("s//2", {"s": 4}) == 2
    assert size_of("unk__0", {"unk__0": 5}) == 5
    assert size_of("input.1_dim 0", {"input.1_dim 0": 6}) == 6


def test_the_likely_plan_comes_first_and_each_symbol_is_varied() -> None:
    plans = list(size_plans(input_roles(graph_of(CACHED))))
    assert plans[0] == {
        "s56": "batch", "s70": "sequence", "s69": "past", "s89": "past",
        "s43": "batch", "s53": "total",
    }  # fmt: skip
    assert plans[1]["s69"] == plans[1]["s53"] == "sequence"
    assert {plan["s53"] for plan in plans} == {"total", "sequence", "past", "target", "batch"}


def test_a_mask_of_another_batch_hides_nothing() -> None:
    graph = graph_of(MIXED.replace("bool[batch, sequence] key_mask", "bool[2, sequence] key_mask"))
    roles = input_roles(graph)
    sample = draw(roles, next(iter(size_plans(roles))), CASES[-1])
    assert sample.redrawn is not None
    assert sample.redrawn["input_ids"].shape == sample.feeds["input_ids"].shape


def test_inputs_of_any_size_are_not_drawn() -> None:
    graph = graph_of(MIXED.replace("float[batch, 3] scores", "float[batch, 1099511627776] scores"))
    roles = input_roles(graph)
    with pytest.raises(CalibrationError, match=r"input scores: .* needs [0-9,]+ bytes, a sample"):
        draw(roles, next(iter(size_plans(roles))), CASES[0])


def test_a_mask_beside_vectors_of_tokens_is_no_cache() -> None:
    text = """net (float[batch, s, 8] x, float[batch, 2, 1, s] bias, float[batch, 2, past, 4] k)
        => (float[batch, s, 8] y) { y = Identity(x) }"""
    graph = graph_of(text)
    assert [role.kind for role in input_roles(graph)] == ["other", "other", "cache"]
    assert all(sample.feeds["x"].shape[1] > 0 for sample in samples(graph))
    assert [sample.feeds["k"].shape[2] for sample in samples(graph)] == [c.past for c in CASES]
