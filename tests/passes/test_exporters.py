"""Every spelling the PyTorch exporter uses converges to one canonical graph and one answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.compiler.checks.check_pass import NumberCheck
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering

SPELLINGS = ("sdpa20", "eager20", "native23")

# Two layers, each Attention + 3 projections + output + 2 feed-forward products, and the mask once.
CANONICAL_OPS = {
    "Add": 18,
    "MatMul": 12,
    "LayerNormalization": 5,
    "Gather": 3,
    "Attention": 2,
    "Gelu": 2,
    "Cast": 1,
    "Unsqueeze": 1,
    "Where": 1,
    "Shape": 1,
    "Concat": 1,
    "Expand": 1,
    "Slice": 1,
}


@pytest.fixture(scope="session")
def canonical(bert: Any) -> dict[str, Graph]:
    return {
        name: PassPipeline(CANONICAL, NumberCheck(graph, threads=1)).run(graph)
        for name, graph in bert.graphs.items()
    }


@pytest.mark.parametrize("name", SPELLINGS)
def test_exports_converge_to_the_canonical_operators(
    canonical: dict[str, Graph], name: str
) -> None:
    assert canonical[name].op_counts == CANONICAL_OPS
    assert canonical[name].opset == 23
    assert [record.rolled_back for record in canonical[name].history] == [None] * len(CANONICAL)
    assert [record.refusals for record in canonical[name].history] == [()] * len(CANONICAL)


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 7), (5, 40)], ids=str)
def test_exports_answer_like_torch(
    bert: Any, canonical: dict[str, Graph], run: Any, name: str, shape: tuple[int, int]
) -> None:
    feeds = bert.feeds(*shape)
    got = run(canonical[name].model, feeds)["hidden"]
    np.testing.assert_allclose(got, bert.reference(feeds), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SPELLINGS)
def test_fully_masked_rows_attend_evenly_like_torch_eager(
    bert: Any, canonical: dict[str, Graph], run: Any, name: str
) -> None:
    feeds = bert.feeds(3, 7, full_row=True)
    assert feeds["attention_mask"].sum(axis=1).tolist() == [7, 6, 0]
    got = run(canonical[name].model, feeds)["hidden"]
    np.testing.assert_allclose(got, bert.reference(feeds), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_text_alone_answers_like_in_a_padded_batch(
    bert: Any, canonical: dict[str, Graph], run: Any, name: str
) -> None:
    feeds = bert.feeds(4, 9)
    together = run(canonical[name].model, feeds)["hidden"]
    for row, length in enumerate(feeds["attention_mask"].sum(axis=1)):
        alone = {key: array[row : row + 1, :length] for key, array in feeds.items()}
        got = run(canonical[name].model, alone)["hidden"]
        np.testing.assert_allclose(got[0], together[row, :length], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_preset_is_idempotent(canonical: dict[str, Graph], name: str) -> None:
    graph = canonical[name]
    again = PassPipeline(CANONICAL).run(graph)
    assert again.digest() == graph.digest()
    second = again.history[len(graph.history) :]
    assert [(record.stage, record.rewrites) for record in second] == [
        (step.spec, 0) for step in CANONICAL
    ]


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_exported_graph_is_not_touched(bert: Any, name: str) -> None:
    graph = bert.graphs[name]
    before = graph.digest()
    counts = graph.op_counts
    PassPipeline(CANONICAL).run(graph)
    assert graph.digest() == before
    assert graph.op_counts == counts
    assert graph.history == ()


def test_the_cpu_lowering_keeps_the_numbers(
    bert: Any, canonical: dict[str, Graph], run: Any
) -> None:
    graph = canonical["sdpa20"]
    low = PassPipeline(lowering("ort-cpu", "fp32"), NumberCheck(graph, threads=1)).run(graph)
    residual, _, attention, _ = low.history[-4:]
    assert (residual.stage, residual.rewrites) == ("fold-residual-bias", 4)
    # The bias of K; behind that of V no bias is left to add it to.
    assert (attention.stage, attention.rewrites) == ("fold-attention-bias", 2)
    assert low.op_counts["Add"] == CANONICAL_OPS["Add"] - 6
    for feeds in (bert.feeds(1, 1), bert.feeds(3, 7, full_row=True)):
        got = run(low.model, feeds)["hidden"]
        np.testing.assert_allclose(got, bert.reference(feeds), atol=2e-5, rtol=1e-4)


def test_half_precision_stays_close_and_finite(
    bert: Any, canonical: dict[str, Graph], run: Any
) -> None:
    graph = canonical["sdpa20"]
    low = PassPipeline(lowering("tensorrt-rtx", "fp16"), NumberCheck(graph, threads=1)).run(graph)
    assert [record.rolled_back for record in low.history[-2:]] == [None, None]
    for feeds in (bert.feeds(1, 1), bert.feeds(3, 7), bert.feeds(3, 7, full_row=True)):
        got = run(low.model, feeds)["hidden"]
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, bert.reference(feeds), atol=3e-2, rtol=1e-2)
