"""The whole way: a graph, its INT8 form with a planted fault, and a metric that sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fuselage.calibration.damage.budget import Budget, fit_budget
from fuselage.calibration.evaluation.answers import answer_all
from fuselage.calibration.evaluation.drops import drops_between
from fuselage.calibration.evaluation.evaluator import Evaluator
from fuselage.calibration.evaluation.examples import Examples
from fuselage.calibration.evaluation.graph_engine import GraphEngine
from fuselage.calibration.run import calibrate
from fuselage.calibration.session import GraphSession
from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.text.tokenization import tokenize_with
from fuselage.engines.text.encoder import TextEncoder
from fuselage.engines.text.pipeline import text_pipeline
from fuselage.engines.text.task import TaskSpec
from fuselage.errors import CalibrationError
from fuselage.passes.pipeline import PassPipeline

SPEC = TaskSpec(
    task="embedding",
    inputs=("input_ids", "attention_mask"),
    outputs=("embedding",),
    dimension=32,
    max_tokens=64,
)
RNG = np.random.default_rng(5)
TEXTS = ["".join(RNG.choice(list("abcdefgh xyz123"), RNG.integers(2, 30))) for _ in range(140)]
TEXTS = [text for text in TEXTS if text.strip()]
PAIRS = tuple(zip(TEXTS[:60], TEXTS[60:120], strict=True))


@pytest.fixture
def tokenize(tokenizer):
    return tokenize_with(TextEncoder(tokenizer, SPEC))


@pytest.fixture
def table(graph, tokenize):
    return calibrate(graph, CalibrationSet.from_texts(TEXTS[:100]), tokenize)


@pytest.fixture
def held(graph, tokenize):
    return CalibrationSet.from_texts(TEXTS[100:]).batches(tokenize, graph.inputs)


@pytest.fixture
def evaluator(graph, tokenizer):
    """Expects what the float graph answers, so its own metric is 100."""
    examples = Examples(
        form="scores", inputs=PAIRS, expected=(0.0,) * len(PAIRS), source="f", digest=""
    )
    with text_pipeline(GraphEngine(graph), tokenizer, SPEC) as runtime:
        expected = tuple(answer_all(runtime, examples))
    return Evaluator(graph, tokenizer, SPEC, replace(examples, expected=expected))


@pytest.fixture
def planted(table):
    """The table with the range of one tensor 60 times too wide: its linear keeps two bits."""
    (name,) = [name for name in table.ranges if name == "active"]
    wide = replace(table.ranges[name], amax=60 * table.ranges[name].amax)
    return replace(table, ranges={**table.ranges, name: wide})


def test_float_graph_drops_by_nothing(graph, evaluator):
    (found,) = evaluator.drops(graph)
    assert (found.metric, found.reference, found.drop) == ("spearman", 100.0, 0.0)
    assert found.interval == (0.0, 0.0)
    assert found.examples == 60


def test_drop_is_in_points_and_inside_its_interval(graph, planted, evaluator):
    (found,) = evaluator.drops(PassPipeline(planted.passes()).run(graph))
    assert found.drop == found.reference - found.candidate
    assert 0.2 < found.drop < 100
    assert found.interval[0] < found.drop < found.interval[1]


def test_the_linear_that_harms_the_metric_goes_back_to_float(graph, planted, held, evaluator):
    def fit(budget):
        return fit_budget(graph, planted, held, budget, outputs=["embedding"], evaluator=evaluator)

    assert len(fit(Budget()).plan.linears) == 2
    assert fit(Budget()).drops[0].drop > 0.3
    kept = fit(Budget(max_drop={"spearman": 0.3}))
    (refusal,) = kept.plan.refusals
    assert refusal.node == "node_down"
    assert "left in float for the accuracy budget: it makes 99.7% of the noise" in refusal.reason
    assert kept.drops[0].drop <= 0.3


def test_budget_that_cannot_be_met_names_the_closest_figure(graph, planted, held, evaluator):
    budget = Budget(max_drop={"spearman": 0.0})
    with pytest.raises(
        CalibrationError,
        match=r"accuracy budget: spearman drops by 0\.\d+ points \(100\.00 to 9\d\.\d+\), more "
        r"than 0 with 1 of 2 linears left in float, the closest of 2 tried",
    ):
        fit_budget(graph, planted, held, budget, outputs=["embedding"], evaluator=evaluator)


def test_metrics_are_not_measured_where_the_noise_alone_misses_the_budget(
    graph, table, held, evaluator
):
    asked = []
    drops = evaluator.drops
    evaluator.drops = lambda graph: asked.append(graph) or drops(graph)
    budget = Budget(min_sqnr_db=140, max_drop={"spearman": 1.0})
    with pytest.raises(CalibrationError, match="SQNR"):
        fit_budget(graph, table, held, budget, outputs=["embedding"], evaluator=evaluator)
    assert asked == []


def test_max_drop_needs_examples(graph, table, held):
    with pytest.raises(CalibrationError, match="a drop of a metric is measured with examples"):
        fit_budget(graph, table, held, Budget(max_drop={"spearman": 1}), outputs=["embedding"])


def test_fast_session_answers_as_the_graph_is_written(graph, table, held):
    quantized = PassPipeline(table.passes()).run(graph)
    with GraphSession(quantized) as exact, GraphSession(quantized, fast=True) as fast:
        for batch in held:
            np.testing.assert_allclose(
                fast.run(batch.feeds)["embedding"],
                exact.run(batch.feeds)["embedding"],
                atol=2e-5,
            )


def test_every_metric_of_the_form_is_judged():
    examples = Examples(
        form="labels", inputs=("x",) * 4, expected=(0, 1, 1, 0), source="f", digest=""
    )
    accuracy, macro = drops_between(examples, [0, 1, 1, 0], [0, 1, 1, 1])
    assert (accuracy.metric, accuracy.reference, accuracy.candidate) == ("accuracy", 100.0, 75.0)
    assert macro.metric == "f1"
    assert macro.drop == pytest.approx(100 - 100 * (2 / 3 + 4 / 5) / 2)
