"""Rounds, turns, and who is called how often."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fuselage.errors import FeedError
from fuselage.proof.timing.energy import Counter, Meter
from fuselage.proof.timing.race import Rules, race, round_times
from fuselage.proof.timing.turns import Closed, Sequential
from fuselage.proof.timing.verdict import judge

from .conftest import FakeClock

MS = 1_000_000
Caller = Callable[..., Callable[[int], None]]


def test_every_candidate_has_its_seconds_iterations_and_rounds(
    clock: FakeClock, caller: Caller
) -> None:
    calls = {"quick": caller(5 * MS), "slow": caller(40 * MS)}
    turns = race(calls, clock, Rules(seconds=3, iterations=10))
    assert [len(series) for series in turns.values()] == [75, 75]
    assert {turn.calls for turn in turns["quick"]} == {10}
    assert {turn.calls for turn in turns["slow"]} == {1}
    assert sum(turn.wall for turn in turns["slow"]) == 3000 * MS
    assert {int(latency) for turn in turns["quick"] for latency in turn.latencies} == {5 * MS}


def test_few_slow_calls_still_make_enough_rounds(clock: FakeClock, caller: Caller) -> None:
    turns = race({"slow": caller(2000 * MS)}, clock, Rules(seconds=3, iterations=10))
    assert len(turns["slow"]) == 12
    turns = race({"slow": caller(2000 * MS)}, clock, Rules(seconds=3, iterations=20))
    assert sum(turn.calls for turn in turns["slow"]) == 20


def test_the_quick_wait_no_longer_for_the_slow_than_they_must(
    clock: FakeClock, caller: Caller
) -> None:
    turns = race({"a": caller(1 * MS), "b": caller(1000 * MS)}, clock, Rules(seconds=3))
    assert len(turns["b"]) == 12
    assert turns["a"][0].calls == 250


def test_candidates_warm_up_for_their_time(clock: FakeClock) -> None:
    began: list[int] = []

    def call(number: int) -> None:
        began.append(number)
        clock.run(30 * MS)

    race({"a": call}, clock, Rules(warm_up=0.2, seconds=0.3, rounds=1, iterations=1))
    assert began[:7] == list(range(7))  # 210 ms
    assert began[7] == 0  # the rounds begin with the first input


def test_all_names_have_one_turn_a_round_in_an_order_that_changes(clock: FakeClock) -> None:
    order: list[str] = []

    def named(name: str) -> Callable[[int], None]:
        def call(number: int) -> None:
            del number
            if not order or order[-1] != name or len(order) % 3 == 0:
                order.append(name)
            clock.run(100 * MS)

        return call

    turns = race({n: named(n) for n in "abc"}, clock, Rules(seconds=1.2, rounds=12))
    starts = {name: [int(turn.starts[0]) for turn in series] for name, series in turns.items()}
    orders = {tuple(sorted("abc", key=lambda n: starts[n][r])) for r in range(12)}
    assert len(orders) > 2
    for at in range(11):
        assert max(starts[n][at] for n in "abc") < min(starts[n][at + 1] for n in "abc")


def test_the_same_seed_gives_the_same_order() -> None:
    def starts(seed: int) -> list[int]:
        clock = FakeClock()
        calls = {n: (lambda _: clock.run(100 * MS)) for n in "ab"}
        turns = race(calls, clock, Rules(seconds=1.2, seed=seed))
        return [int(turn.starts[0]) for turn in turns["a"]]

    assert starts(1) == starts(1) != starts(2)


def test_candidates_have_the_same_inputs_in_a_round(clock: FakeClock) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def named(name: str, nanoseconds: int) -> Callable[[int], None]:
        def call(number: int) -> None:
            seen[name].append(number)
            clock.run(nanoseconds)

        return call

    calls = {"a": named("a", 10 * MS), "b": named("b", 25 * MS)}
    turns = race(calls, clock, Rules(warm_up=0, seconds=0.6), inputs=7)
    assert {turn.calls for series in turns.values() for turn in series} == {2}
    assert seen["a"][2:] == seen["b"][2:]
    # a call that is not timed, on the first input of the turn
    assert seen["a"][2:8] == [0, 0, 1, 2, 2, 3]


def test_garbage_is_left_alone_meanwhile_and_collected_again_after(clock: FakeClock) -> None:
    states: list[bool] = []

    def call(number: int) -> None:
        states.append(gc.isenabled())
        clock.run(100 * MS)
        if number > 3:
            raise FeedError("enough")

    with pytest.raises(FeedError, match="enough"):
        race({"a": call}, clock, Rules())
    assert set(states) == {False}
    assert gc.isenabled()


@pytest.mark.parametrize(
    "rules",
    [{"seconds": 0}, {"seconds": -1}, {"seconds": float("nan")}, {"iterations": 0}, {"rounds": 0}],
)
def test_a_race_without_length_is_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(FeedError, match="expected seconds above 0 and at least 1 iteration"):
        Rules(**rules)


def test_rounds_are_compared_by_median_latency_or_by_throughput(clock: FakeClock) -> None:
    durations = iter([5, 5, 5, 1, 9, 2, 5, 5])
    calls = {"a": lambda _: clock.run(next(durations) * MS)}
    turns = race(calls, clock, Rules(warm_up=0, seconds=0.02, rounds=1, turn=0.025, iterations=1))
    assert [turn.latencies.tolist() for turn in turns["a"]] == [[m * MS for m in (1, 9, 2, 5, 5)]]
    assert round_times(turns["a"], Sequential()) == [5 * MS]
    assert round_times(turns["a"], Closed(clients=4, seconds=1)) == [22 * MS / 5]


def test_energy_is_read_around_each_turn(clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "energy_uj"
    file.write_text("0")

    def call(number: int) -> None:
        del number
        file.write_text(str(int(file.read_text()) + 500_000))
        clock.run(50 * MS)

    meter = Meter(counters=(Counter(file, 1 << 40),))
    turns = race({"a": call}, clock, Rules(seconds=0.6), meter=meter)
    assert {turn.joules for turn in turns["a"]} == {0.5}


# --- whole races under noise that depends on the moment alone


def slowed(period: float, factor: float) -> Callable[[int, random.Random], float]:
    """A neighbour that comes and goes, and a percent or two of jitter."""

    def noise(moment: int, rng: random.Random) -> float:
        is_there = int(moment / 1e9 / period) % 2
        return (factor if is_there else 1.0) * rng.lognormvariate(0, 0.02)

    return noise


@pytest.fixture
def _uncollected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection before each of many races would be all they take."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize(("period", "factor"), [(0.17, 1.8), (0.6, 3.0), (5.0, 2.0)])
def test_equals_under_a_neighbour_are_no_difference(period: float, factor: float) -> None:
    """The bar is 1 in 20."""
    wrong = 0
    for seed in range(40):
        clock, rng = FakeClock(), random.Random(seed)
        noise = slowed(period, factor)
        calls = {
            name: (lambda _: clock.run(4 * MS * noise(clock.time, rng)))  # noqa: B023
            for name in "ab"
        }
        turns = race(calls, clock, Rules(seconds=1, seed=seed))
        a, b = (round_times(turns[name], Sequential()) for name in "ab")
        wrong += judge(b, a).outcome != "no difference"
    assert wrong <= 2


@pytest.mark.usefixtures("_uncollected")
def test_a_fixed_ratio_repeats_within_three_percent_under_a_neighbour() -> None:
    ratios = []
    for seed in range(5):
        clock, rng = FakeClock(), random.Random(seed)
        noise = slowed(0.6, 2.0)
        calls = {
            name: (lambda _, ns=ns: clock.run(ns * noise(clock.time, rng)))  # noqa: B023
            for name, ns in {"a": 10 * MS, "b": 6 * MS}.items()
        }
        turns = race(calls, clock, Rules(seconds=3, seed=seed))
        a, b = (round_times(turns[name], Sequential()) for name in "ab")
        ratios.append(judge(b, a).ratio.ratio)
    middle = sorted(ratios)[2]
    assert middle == pytest.approx(0.6, rel=0.02)
    assert max(abs(ratio / middle - 1) for ratio in ratios) <= 0.03
