from __future__ import annotations

import numpy as np
import pytest

from fuselage.calibration.damage.budget import Budget, choose_float, fit_budget
from fuselage.calibration.damage.quality import Quality
from fuselage.calibration.damage.sensitivity import LinearNoise, linear_noises
from fuselage.calibration.run import calibrate
from fuselage.calibration.text.data import CalibrationSet
from fuselage.errors import CalibrationError
from fuselage.passes.qdq.policy import Linear

WORDS = ["a", "ok then", "the quick brown fox", "jumps", "over the lazy dog", "x" * 40, "why?"]
TEXTS = [f"{word} {number}" for number in range(6) for word in WORDS]
HELD = ["hello there", "unseen words", "q", "zebra", "another text that was not seen"]


@pytest.fixture
def table(graph, tokenize):
    return calibrate(graph, CalibrationSet.from_texts(TEXTS), tokenize)


@pytest.fixture
def held(graph, tokenize):
    return CalibrationSet.from_texts(HELD).batches(tokenize, graph.inputs)


def noise(name, value, depth=16):
    linear = Linear(
        node=name, output=name, activation="x", weight="w", axis=1, transposed=False,
        depth=depth, channels=16,
    )  # fmt: skip
    return LinearNoise(linear=linear, noise=value)


def quality(sqnr=20.0, cosine=0.98):
    return Quality(texts=5, sqnr_db=sqnr, cosine_mean=cosine, cosine_min=cosine, worst=0)


def names(chosen):
    return [item.linear.node for item in chosen]


def test_noises_of_single_linears_add_up_to_that_of_all(graph, table, held):
    noises = linear_noises(graph, table, held, outputs=["embedding"])
    assert [item.linear.node for item in noises] == ["node_hidden", "node_down"]
    whole = fit_budget(graph, table, held, Budget(), outputs=["embedding"]).quality
    predicted = -10 * np.log10(sum(item.noise for item in noises))
    assert predicted == pytest.approx(whole.sqnr_db, abs=1.0)


def test_without_a_budget_everything_is_int8(graph, table, held):
    fit = fit_budget(graph, table, held, Budget(), outputs=["embedding"])
    assert len(fit.plan.linears) == 2
    assert fit.plan.refusals == ()


def test_budget_leaves_the_most_harmful_linear_in_float_and_says_why(graph, table, held):
    whole = fit_budget(graph, table, held, Budget(), outputs=["embedding"]).quality
    budget = Budget(min_sqnr_db=whole.sqnr_db + 1.5)
    fit = fit_budget(graph, table, held, budget, outputs=["embedding"])
    assert fit.quality.sqnr_db >= whole.sqnr_db + 1.5
    noises = linear_noises(graph, table, held, outputs=["embedding"])
    worst = max(noises, key=lambda item: item.noise_per_mac)
    (refusal,) = fit.plan.refusals
    assert (refusal.rule, refusal.node) == ("accuracy-budget", worst.linear.node)
    assert "% of the noise" in refusal.reason
    assert fit.graph.op_counts["QuantizeLinear"] == 1


def test_cosine_budget_is_met(graph, table, held):
    whole = fit_budget(graph, table, held, Budget(), outputs=["embedding"]).quality
    target = 1 - (1 - whole.cosine_min) * 0.75
    fit = fit_budget(graph, table, held, Budget(min_cosine=target), outputs=["embedding"])
    assert fit.quality.cosine_min >= target
    assert len(fit.plan.linears) == 1


def test_budget_that_no_choice_meets_is_an_error(graph, table, held):
    with pytest.raises(CalibrationError, match=r"accuracy budget: SQNR .* is below 140 dB with"):
        fit_budget(graph, table, held, Budget(min_sqnr_db=140), outputs=["embedding"])


def test_progress_counts_the_linears(graph, table, held):
    seen = []
    linear_noises(
        graph, table, held, outputs=["embedding"], on_progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 2), (2, 2)]


def test_greedy_takes_noise_per_mac_and_returns_what_is_not_needed():
    noises = [noise("a", 1.0, 16), noise("b", 6.0, 128), noise("c", 0.9, 16), noise("d", 0.1)]
    assert names(choose_float(noises, 0.9)) == ["a"]
    assert names(choose_float(noises, 0.8)) == ["a", "c"]
    # a and c come first by noise a MAC, but once b is needed they are not
    assert names(choose_float(noises, 0.3)) == ["b"]
    assert names(choose_float(noises, 0.2)) == ["a", "b"]
    assert names(choose_float(noises, 0.3, at_least=3)) == ["a", "c", "b"]
    assert choose_float(noises, 1.0) == ()


def test_shortfall_and_share_follow_from_the_measured_quality():
    budget = Budget(min_sqnr_db=23.0, min_cosine=0.99)
    assert budget.shortfall(quality()) == "SQNR 20.00 dB is below 23 dB"
    assert budget.shortfall(quality(sqnr=24)) == "least cosine 0.9800 is below 0.99"
    assert budget.shortfall(quality(sqnr=24, cosine=0.995)) is None
    assert budget.allowed_share(quality()) == pytest.approx(0.5, abs=2e-3)
    assert budget.allowed_share(quality(sqnr=20.0, cosine=0.96)) == pytest.approx(0.25)
    assert Budget().allowed_share(quality()) == 1.0


def test_share_of_nothing_is_an_error():
    with pytest.raises(CalibrationError, match="no INT8 graph can do that"):
        choose_float([noise("a", 1.0)], 0.0)
