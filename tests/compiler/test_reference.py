"""The original decides which samples it takes, and which of its answers mean anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.check_pass import NumberCheck
from fuselage.compiler.checks.reference import reference_answers
from fuselage.errors import CalibrationError
from fuselage.graph.model import Graph
from fuselage.passes.blocks.fuse_gelu import FuseGelu

BLOCK = """net (int64[s72, s70] ids, int64[s43, s53] mask) => (float[s72, s70, 8] y)
    {
        x = Gather(words, ids)
        k = Transpose<perm = [0, 2, 1]>(x)
        scores = MatMul(x, k)
        wide = Unsqueeze(mask, one)
        shown = Cast<to = 9>(wide)
        masked = Where(shown, scores, fill)
        p = Softmax<axis = -1>(masked)
        GUARD
        a = MatMul(q, x)
        y = Add(a, x)
    }"""
GUARD = "bad = IsNaN(p)  q = Where(bad, zero, p)"


def graph_of(text: str, **constants: Any) -> Graph:
    tensors = [
        ir.tensor(np.asarray(array), name=name)
        for name, array in constants.items()
        if f"{name}," in text or f"{name})" in text
    ]
    return Graph(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 23]> {text}', tensors))


def block(fill: float, guard: str = "q = Identity(p)") -> Graph:
    words = np.random.default_rng(0).normal(0, 1, (30, 8)).astype(np.float32)
    return graph_of(
        BLOCK.replace("GUARD", guard),
        words=words,
        one=np.array([1]),
        fill=np.float32(fill),
        zero=np.float32(0),
    )


LOWEST = float(np.finfo(np.float32).min)


def test_a_graph_with_foreign_symbols_is_run_on_every_case() -> None:
    answers = reference_answers(block(LOWEST), threads=1)
    shapes = [answer.outputs["y"].shape[:2] for answer in answers]
    assert shapes == [(3, 7), (1, 1), (1, 9), (2, 16), (3, 6)]


def test_answers_without_a_key_are_not_defined_whatever_the_graph_makes_of_them() -> None:
    for graph in (block(LOWEST), block(-np.inf), block(-np.inf, GUARD)):
        *whole, hidden = reference_answers(graph, threads=1)
        assert all(answer.defined is None for answer in whole)
        assert hidden.defined is not None
        rows = hidden.defined["y"].all(axis=-1)
        np.testing.assert_array_equal(rows, hidden.sample.feeds["mask"] == 1)


def test_a_row_without_any_key_is_not_defined_although_a_guard_answers_0_to_any_token() -> None:
    text = BLOCK.replace("y = Add(a, x)", "y = Identity(a)").replace("GUARD", GUARD)
    words = np.random.default_rng(0).normal(0, 1, (30, 8)).astype(np.float32)
    fill, zero = np.float32(-np.inf), np.float32(0)
    graph = graph_of(text, words=words, one=np.array([1]), fill=fill, zero=zero)
    *_, hidden = reference_answers(graph, threads=1)
    assert hidden.defined is not None
    assert not hidden.outputs["y"][2].any()
    assert not hidden.defined["y"][2].any()
    assert hidden.defined["y"][0].all()


@pytest.mark.parametrize("fill", [-np.inf, LOWEST, LOWEST * 0.9])
def test_spellings_of_a_hidden_row_are_not_held_against_each_other(fill: float) -> None:
    check = NumberCheck(block(-np.inf, GUARD), threads=1)
    if fill == -np.inf:  # the guard is gone: 0 became NaN
        reason = check(block(fill), FuseGelu())
        assert reason is not None
        assert "values where every key is hidden were finite and are not" in reason
    else:
        assert check(block(fill), FuseGelu()) is None


def test_canonical_graphs_are_held_to_each_other_in_hidden_rows_too() -> None:
    check = NumberCheck(block(LOWEST), threads=1, canonical=True)
    assert check(block(LOWEST * 0.9), FuseGelu()) is None
    assert "ids [3, 6]: relative error" in (check(block(-np.inf, GUARD), FuseGelu()) or "")


def test_a_lost_mask_is_caught_in_shown_rows() -> None:
    check = NumberCheck(block(-np.inf, GUARD), threads=1)
    assert "relative error" in (check(block(0.0), FuseGelu()) or "")


def test_sizes_that_no_symbol_ties_are_found_by_asking_the_graph() -> None:
    """`a + b` and the widths must agree although all symbols differ; the first plan is wrong."""
    text = """net (float[n, s] a, int64[m, t] i, int64[k, u] j) => (float[n, s] y)
    { x = Gather(words, i)
      z = Gather(words, j)
      w = Add(x, z)
      y = Add(a, w) }"""
    words = np.arange(8, dtype=np.float32)
    answers = reference_answers(graph_of(text, words=words), threads=1)
    assert [answer.outputs["y"].shape for answer in answers][:2] == [(3, 7), (1, 1)]


def test_cases_that_the_graph_rejects_are_left_out() -> None:
    text = """net (int64[n, s] ids) => (float[n, q] y)
    { x = Gather(words, ids)
      y = Concat<axis = 0>(row, x) }"""
    row = np.ones((1, 9), np.float32)
    graph = graph_of(text, words=np.arange(8, dtype=np.float32), row=row)
    (answer,) = reference_answers(graph, threads=1)
    assert answer.sample.feeds["ids"].shape == (1, 9)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = RandomNormalLike(x)", r"the graph draws random numbers \(RandomNormalLike\)"),
        ("y = Reshape(x, shape)", "the graph itself rejects every sample: ONNX Runtime cannot"),
        ("z = Sub(x, x)  y = Div(z, z)", "the graph answers every sample with NaN"),
        ("y = Foo(x)", "ONNX Runtime refuses the graph"),
    ],
)
def test_a_graph_without_answers_is_not_checked_and_nothing_is_rolled_back(
    body: str, reason: str
) -> None:
    text = f"net (float[n, s] x) => (float[n, q] y) {{ {body} }}"
    graph = graph_of(text, shape=np.array([11, 13]))
    with pytest.raises(CalibrationError, match=reason):
        reference_answers(graph, threads=1)
    check = NumberCheck(graph, threads=1)
    assert check.not_checked is not None
    assert check(block(0.0), FuseGelu()) is None


def test_an_input_of_unknown_rank_is_a_reason() -> None:
    graph = block(LOWEST)
    graph.model.graph.inputs[0].shape = None
    assert "ids: expected a typed tensor of known rank" in (NumberCheck(graph).not_checked or "")


def test_an_empty_cache_is_a_case() -> None:
    text = """net (int64[b, s] ids, int64[b2, t] mask, float[b3, s2, 1] past) => (float[b, t, 1] y)
    { x = Gather(words, ids)
      all = Concat<axis = 1>(past, x)
      wide = Cast<to = 1>(mask)
      m = Unsqueeze(wide, last)
      y = Mul(all, m) }"""
    words = np.arange(8, dtype=np.float32)[:, None]
    answers = reference_answers(graph_of(text, words=words, last=np.array([2])), threads=1)
    shapes = {answer.sample.feeds["past"].shape[1]: answer.outputs["y"].shape for answer in answers}
    assert shapes[0] == (1, 9, 1)
    assert shapes[4] == (3, 11, 1)
