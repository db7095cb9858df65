"""Candidates in one process, a turn each in every round, in random order."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import FeedError
from .clock import Clock, garbage_collection_off
from .energy import Meter
from .turns import Call, Load, Sequential, Turn

_MOST_CALLS = 4096
_LEAST_WARM_UPS = 2


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How long a race is.

    Attributes:
        warm_up: seconds of each candidate before the first round.
        seconds: of each candidate that are timed, at least.
        iterations: calls of each candidate that are timed, at least.
        rounds: at least.
        turn: seconds that a turn of calls one after another is aimed at. Long enough that the one
            call before it, which is not timed, costs little; short enough that the machine is the
            same for all turns of a round.
        seed: of the order.

    Raises:
        FeedError: when a size makes no sense.
    """

    warm_up: float = 0.2
    seconds: float = 3.0
    iterations: int = 10
    rounds: int = 12
    turn: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf or self.iterations < 1 or self.rounds < 1:
            raise FeedError(
                "bench: expected seconds above 0 and at least 1 iteration and round, got "
                f"{self.seconds}, {self.iterations} and {self.rounds}"
            )


def race(
    candidates: Mapping[str, Call],
    clock: Clock,
    rules: Rules,
    load: Load | None = None,
    *,
    inputs: int = 1,
    meter: Meter | None = None,
) -> dict[str, list[Turn]]:
    """Time all candidates on the same inputs.

    A turn begins with a call that is not timed, so that its caches are the candidate's own and not
    those of whose turn it was before. The order of a round is drawn anew, which is what the
    verdict rests on.

    Args:
        candidates: name -> call.
        clock: to read.
        rules: how long.
        load: how calls follow one another; None for one after another.
        inputs: how many different inputs there are. With several, all candidates have equally many
            calls a turn, so that those of a round have the same inputs.
        meter: of energy; None or one that cannot be read leaves it out.

    Returns:
        Name -> its turns, as many as there were rounds.

    Raises:
        FuselageError: as a call does.
    """
    load = load or Sequential()
    with garbage_collection_off():
        times = {name: _warm_up(call, clock, rules) for name, call in candidates.items()}
        slowest = max(times.values())
        if inputs > 1:
            times = dict.fromkeys(times, slowest)
        # As long as a call of the slowest, or its turns would be all there is to wait for.
        turn = max(rules.turn * 1e9, min(slowest, rules.seconds / rules.rounds * 1e9))
        calls = {name: min(max(1, round(turn / t)), _MOST_CALLS) for name, t in times.items()}
        course = _Course(clock, load, meter or Meter())
        return _rounds(candidates, course, rules, calls)


@dataclass(frozen=True)
class _Course:
    """What all turns have in common."""

    clock: Clock
    load: Load
    meter: Meter

    def turn(self, call: Call, number: int, calls: int) -> Turn:
        """One turn behind the call that warms its caches."""
        call(number)
        if not self.meter.counters:
            return self.load.turn(call, self.clock, number, calls)
        before = self.meter.read()
        turn = self.load.turn(call, self.clock, number, calls)
        return replace(turn, joules=self.meter.joules(before, self.meter.read()))


def _rounds(
    candidates: Mapping[str, Call], course: _Course, rules: Rules, calls: Mapping[str, int]
) -> dict[str, list[Turn]]:
    turns: dict[str, list[Turn]] = {name: [] for name in candidates}
    order, rng = list(candidates), random.Random(rules.seed)
    most = max(calls.values())
    number = 0
    while not all(_is_enough(series, rules) for series in turns.values()):
        rng.shuffle(order)
        for name in order:
            turns[name].append(course.turn(candidates[name], number, calls[name]))
        number += most
    return turns


def _is_enough(turns: Sequence[Turn], rules: Rules) -> bool:
    return (
        len(turns) >= rules.rounds
        and sum(turn.wall for turn in turns) >= rules.seconds * 1e9
        and sum(turn.calls for turn in turns) >= rules.iterations
    )


def _warm_up(call: Call, clock: Clock, rules: Rules) -> float:
    """Run until it is warm.

    Returns:
        Median nanoseconds of the later half of the calls, by the host's clock.
    """
    times: list[int] = []
    end = clock.now() + int(rules.warm_up * 1e9)
    while clock.now() < end or len(times) < _LEAST_WARM_UPS:
        start = clock.now()
        call(len(times))
        times.append(clock.now() - start)
    return max(1.0, statistics.median(times[len(times) // 2 :]))


def round_times(turns: Sequence[Turn], load: Load) -> list[float]:
    """The time of each round that candidates are compared by, in nanoseconds.

    One client, or open load: the median latency of the turn. Many clients: the time of the turn
    through its calls, whose inverse is the throughput.
    """
    if load.describe()["kind"] == "closed" and load.describe()["clients"] != 1:
        return [turn.wall / max(1, turn.calls) for turn in turns]
    return [statistics.median(turn.latencies.tolist()) for turn in turns]
