"""The fit: it finds planted costs, never goes below 0, and says how far it is off."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from scipy.stats import spearmanr

from fuselage.errors import CalibrationError
from fuselage.graph.model import Graph
from fuselage.proof.cost_model.counting import GraphCost, count
from fuselage.proof.cost_model.fitting import Observation, classes_of, fit, non_negative
from fuselage.proof.cost_model.judging import judge, judge_all, rank_correlation
from fuselage.proof.cost_model.shape import CostShape, sizes_at

_FITTED = ("2x16", "16x16", "2x256")
_RATE, _BANDWIDTH, _CONSTANT, _BETWEEN = 1e9, 2e9, 4e-6, 7e-7


def _planted(graph: Graph, cost: GraphCost, text: str, noise: float = 0.0) -> Observation:
    """Timings of a machine that we made up: each class has its own constant."""
    sizes = sizes_at(graph, CostShape.parse(text))
    random = np.random.default_rng(crc32(text.encode()))
    times: list[float | None] = []
    for node in cost.nodes:
        if node.kind == "view":
            seconds = _CONSTANT
        elif node.kind == "product":
            seconds = float(node.flops.at(sizes)) / _RATE + _CONSTANT
        else:
            seconds = float(node.moved_bytes.at(sizes)) / _BANDWIDTH + _CONSTANT
            if node.kind == "attention":
                seconds += float(node.flops.at(sizes)) / _RATE
        times.append(seconds * float(1 + noise * random.standard_normal()))
    whole = sum(time for time in times if time is not None) + _BETWEEN * len(times)
    return Observation(text, sizes, times, whole)


def test_planted_costs_are_found(block: Graph) -> None:
    cost = count(block)
    model = fit(cost, [_planted(block, cost, text) for text in _FITTED])
    products = [name for name in model.classes if name[0] == "MatMul"]
    assert len(products) == 3  # one a weight and neighbour
    for name in products:
        found = dict(zip(model.classes[name].terms, model.classes[name].seconds, strict=True))
        assert found["flops"] == pytest.approx(1 / _RATE, rel=1e-6)
        assert found["1"] == pytest.approx(_CONSTANT, rel=1e-6)
    assert model.between == pytest.approx(_BETWEEN, rel=1e-6)
    assert model.shapes == _FITTED
    held_out = _planted(block, cost, "4x100")
    verdict = judge(cost, model, held_out)
    assert verdict.error == pytest.approx(0, abs=1e-6)
    assert verdict.node_median == pytest.approx(0, abs=1e-6)
    assert verdict.spearman == pytest.approx(1)


def test_noise_is_said(block: Graph) -> None:
    cost = count(block)
    model = fit(cost, [_planted(block, cost, text, noise=0.05) for text in _FITTED])
    verdict = judge_all(cost, model, [_planted(block, cost, "4x100"), _planted(block, cost, "1x9")])
    assert 0.001 < verdict.node_median < 0.1
    assert verdict.shape == "all"


def test_a_node_that_did_not_run_has_no_prediction(block: Graph) -> None:
    cost = count(block)
    seen = [_planted(block, cost, text) for text in _FITTED]
    cut = [
        Observation(o.shape, o.sizes, [None, *o.nodes[1:]], o.whole - (o.nodes[0] or 0) - _BETWEEN)
        for o in seen
    ]
    model = fit(cost, cut)
    assert model.nodes(cost, seen[0].sizes)[0] is None
    assert model.between == pytest.approx(_BETWEEN, rel=1e-6)


def test_classes_tell_weights_and_neighbours_apart(block: Graph) -> None:
    names = classes_of(count(block))
    assert names[2] == ("MatMul", "[8, 8]", "behind LayerNormalization")
    assert names[5] == ("MatMul", "[8, 16]", "behind Add")
    assert names[0] == ("Gather", "behind start")


def test_coefficients_are_never_negative() -> None:
    values = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    falling = np.array([3.0, 2.0, 1.0])
    solved = non_negative(values, falling)
    assert (solved >= 0).all()
    assert solved == pytest.approx([0.0, 2.0])  # the mean: a slope below 0 is not allowed


def test_the_relative_error_is_least(block: Graph) -> None:
    cost = count(block)
    view = next(i for i, node in enumerate(cost.nodes) if node.kind == "view")
    sizes = sizes_at(block, CostShape(1, 1))

    def only(seconds: float) -> Observation:
        times = [seconds if index == view else None for index in range(len(cost.nodes))]
        return Observation("1x1", sizes, times, seconds)

    model = fit(cost, [only(10e-6), only(30e-6)])
    # sum of ((c - t) / t)^2 is least at c = (1/10 + 1/30) / (1/100 + 1/900); the mean would be 20
    assert model.nodes(cost, sizes)[view] == pytest.approx(12e-6)


def test_no_timings_are_refused(block: Graph) -> None:
    cost = count(block)
    with pytest.raises(CalibrationError, match="timings of at least one shape, got none"):
        fit(cost, [])
    nothing = Observation("1x1", {}, [None] * len(cost.nodes), 1.0)
    with pytest.raises(CalibrationError, match="got none"):
        fit(cost, [nothing])


def test_rank_correlation_is_spearmans() -> None:
    random = np.random.default_rng(0)
    left, right = random.integers(0, 9, 60), random.integers(0, 9, 60)
    assert rank_correlation(left, right) == pytest.approx(spearmanr(left, right).statistic)
    assert rank_correlation([1, 2], [3, 4]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
