"""The ratio, its interval, and how often equals are called different."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from fuselage.errors import FeedError
from fuselage.proof.timing.verdict import _block_length, _rank, judge, paired_ratio

MS = 1e6


def test_a_fixed_ratio_is_found_exactly_through_drift_that_both_share() -> None:
    drift = np.linspace(1, 3, 40)
    found = paired_ratio((drift * 5).tolist(), (drift * 10).tolist())
    assert (found.ratio, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.rounds == 40


def test_the_estimate_is_the_median_of_the_means_of_pairs() -> None:
    """Hodges and Lehmann by hand: of the logs 0, 1, 3 the pairs' means are 0, .5, 1, 1.5, 2, 3."""
    logs = [0.0, 1, 3] + [1.25] * 5
    means = [(a + b) / 2 for i, a in enumerate(logs) for b in logs[i:]]
    found = paired_ratio(np.exp(logs).tolist(), [1.0] * 8)
    assert math.log(found.ratio) == pytest.approx(np.median(means))
    assert found.low == pytest.approx(1.0)  # eight rounds: the interval is all there is
    assert math.log(found.high) == pytest.approx(3.0)


@pytest.mark.parametrize("count", [8, 10, 13])
def test_the_rank_is_that_of_all_sign_patterns(count: int) -> None:
    sums = [
        sum(rank for rank, sign in enumerate(signs, 1) if sign)
        for signs in product((0, 1), repeat=count)
    ]
    rank = _rank(count, 0.005)
    at_most = [sum(total <= bound for total in sums) / len(sums) for bound in (rank, rank + 1)]
    assert at_most[0] <= 0.005 < at_most[1]


def test_equal_times_are_no_difference() -> None:
    verdict = judge([5.0] * 20, [5.0] * 20)
    assert verdict.outcome == "no difference"
    assert verdict.reason == "1.000 to 1.000 includes 1"


def test_an_interval_that_leaves_room_for_more_says_so() -> None:
    verdict = judge([1.0, 1.2] * 6, [1.1] * 12)
    assert verdict.outcome == "no difference"
    assert verdict.reason == "0.909 to 1.091 includes 1; more --seconds would narrow it"


def test_a_sure_difference_below_the_floor_is_none() -> None:
    verdict = judge([10.1] * 20, [10.0] * 20, floor=0.02)
    assert verdict.outcome == "no difference"
    assert verdict.ratio.low > 1
    assert verdict.reason == "it is below 2.0%, the difference that counts"
    assert judge([10.1] * 20, [10.0] * 20, floor=0.005).outcome == "slower"


def test_the_floor_is_the_same_for_faster_and_slower() -> None:
    assert judge([1.0] * 9, [1.019] * 9).outcome == "no difference"
    assert judge([1.0] * 9, [1.021] * 9).outcome == "faster"
    assert judge([1.019] * 9, [1.0] * 9).outcome == "no difference"
    assert judge([1.021] * 9, [1.0] * 9).outcome == "slower"


@pytest.mark.parametrize("counts", [(7, 7), (0, 0), (9, 8)])
def test_too_few_rounds_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(FeedError, match=r"at least 8 rounds of both.*give more --seconds"):
        judge([1.0] * counts[0], [1.0] * counts[1])


def test_independent_rounds_stand_alone_and_alike_ones_are_joined() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(0, 1, 100)
    walk = np.cumsum(rng.normal(0, 1, 100))
    assert _block_length(white) == 1
    assert _block_length(walk) == 10  # no fewer than ten blocks are left
    assert _block_length(rng.normal(0, 1, 1000)) == 5  # no more than two hundred either


def test_a_ratio_that_wanders_has_a_wider_interval_than_its_rounds_would_promise() -> None:
    rng = np.random.default_rng(1)
    wander = 0.1 * _autoregressive(rng, 100, 0.9)
    shuffled = rng.permutation(wander)
    wide = paired_ratio(np.exp(wander).tolist(), [1.0] * 100)
    narrow = paired_ratio(np.exp(shuffled).tolist(), [1.0] * 100)
    assert math.log(wide.high / wide.low) > 2 * math.log(narrow.high / narrow.low)


# --- how often equals are called different, before the floor helps


def _autoregressive(rng: np.random.Generator, count: int, memory: float) -> np.ndarray:
    series = np.zeros(count)
    for at in range(1, count):
        series[at] = memory * series[at - 1] + rng.normal()
    return series


def _white(rng: np.random.Generator, slots: int) -> np.ndarray:
    return rng.normal(0, 0.1, slots)


def _spikes(rng: np.random.Generator, slots: int) -> np.ndarray:
    """A Cauchy tail on one side: another process had the core."""
    return np.log1p(np.abs(rng.standard_cauchy(slots)))


def _autocorrelated(rng: np.random.Generator, slots: int) -> np.ndarray:
    return 0.1 * _autoregressive(rng, slots, 0.95)


def _drift(rng: np.random.Generator, slots: int) -> np.ndarray:
    return np.linspace(0, 2, slots) + rng.normal(0, 0.02, slots)


def _two_states(rng: np.random.Generator, slots: int) -> np.ndarray:
    """A neighbour that comes and goes for a dozen slots."""
    return np.repeat(rng.integers(0, 2, slots // 12 + 1), 12)[:slots] * 0.7


def _first_is_slow(rng: np.random.Generator, slots: int) -> np.ndarray:
    """The first turn of a round pays for what ran between the rounds."""
    return np.tile([0.3, 0.0], slots // 2) + rng.normal(0, 0.02, slots)


NOISES = (_white, _spikes, _autocorrelated, _drift, _two_states, _first_is_slow)


@pytest.mark.parametrize("noise", NOISES)
def test_equals_are_called_different_in_one_of_a_hundred_races(
    noise: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    """Noise belongs to the slots of time, the names to the coin; 400 races of 40 rounds."""
    rng, wrong, races = np.random.default_rng(7), 0, 400
    for _ in range(races):
        slots = noise(rng, 80).reshape(40, 2)
        coin = rng.integers(0, 2, 40)
        first, second = slots[np.arange(40), coin], slots[np.arange(40), 1 - coin]
        found = paired_ratio(np.exp(first).tolist(), np.exp(second).tolist())
        wrong += not found.low <= 1 <= found.high
    assert wrong <= 10  # 4 are expected; the bar of the product, 1 in 20, is 20


def test_in_a_fixed_order_the_first_would_lose() -> None:
    """Why the order is drawn: with A before B always, the slow first slot is A's every time."""
    rng = np.random.default_rng(7)
    slots = _first_is_slow(rng, 80).reshape(40, 2)
    verdict = judge(np.exp(slots[:, 0]).tolist(), np.exp(slots[:, 1]).tolist())
    assert verdict.outcome == "slower"


@pytest.mark.parametrize("noise", NOISES)
def test_half_the_time_is_found_through_the_noise(
    noise: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    rng, random_coin = np.random.default_rng(3), random.Random(3)
    slots = noise(rng, 160).reshape(80, 2)
    fast, slow = [], []
    for pair in slots:
        first = random_coin.randrange(2)
        fast.append(0.5 * math.exp(pair[first]))
        slow.append(math.exp(pair[1 - first]))
    verdict = judge(fast, slow)
    assert verdict.outcome == "faster"
    assert verdict.ratio.low <= 0.5 <= verdict.ratio.high
