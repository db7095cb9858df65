"""Closed and open load on a clock that moves only when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from fuselage.errors import DeviceError
from fuselage.proof.timing.clock import SystemClock
from fuselage.proof.timing.turns import Closed, Open, Sequential

from .conftest import FakeClock

MS = 1_000_000
Caller = Callable[..., Callable[[int], None]]


def test_calls_one_after_another(clock: FakeClock) -> None:
    seen: list[int] = []

    def call(number: int) -> None:
        seen.append(number)
        clock.run(3 * MS)

    clock.time = 1000
    turn = Sequential().turn(call, clock, first=40, calls=4)
    assert seen == [40, 41, 42, 43]
    assert turn.latencies.tolist() == [3 * MS] * 4
    assert turn.starts.tolist() == [1000 + at * 3 * MS for at in range(4)]
    assert (turn.wall, turn.cpu, turn.occupancy) == (12 * MS, 24 * MS, 1.0)


def test_the_clock_of_a_device_has_the_say_where_there_is_one(clock: FakeClock) -> None:
    def call(number: int) -> float:
        clock.run(5 * MS)  # what the host sees
        return 1.5 * MS + number

    turn = Sequential().turn(call, clock, first=0, calls=2)
    assert turn.latencies.tolist() == [1.5 * MS, 1.5 * MS + 1]
    assert turn.wall == 10 * MS


def test_one_client_sends_until_the_turn_is_over(clock: FakeClock, caller: Caller) -> None:
    turn = Closed(clients=1, seconds=0.1).turn(caller(30 * MS), clock, first=0, calls=1)
    assert turn.calls == 4  # the last began at 90 ms
    exact = Closed(clients=1, seconds=0.06).turn(caller(30 * MS), clock, first=0, calls=1)
    assert exact.calls == 2  # nothing begins at the end
    assert turn.wall == 120 * MS


def test_every_client_calls_once_however_short_the_turn(clock: FakeClock, caller: Caller) -> None:
    turn = Closed(clients=2, seconds=0.0).turn(caller(30 * MS), clock, first=0, calls=0)
    assert turn.calls == 2


def test_clients_call_at_the_same_time_and_share_the_numbers(clock: FakeClock) -> None:
    together = threading.Barrier(3, timeout=60)
    seen: list[int] = []

    def call(number: int) -> None:
        seen.append(number)
        if number < 8:
            together.wait()  # the first three calls are under way at once, or never end
        else:
            clock.time = 2000 * MS

    turn = Closed(clients=3, seconds=1).turn(call, clock, first=5, calls=0)
    assert 4 <= turn.calls <= 6
    assert sorted(seen) == list(range(5, 5 + turn.calls))


def test_an_error_of_a_client_is_raised() -> None:
    def call(number: int) -> None:
        del number
        raise DeviceError("gone")

    with pytest.raises(DeviceError, match="gone"):
        Closed(clients=3, seconds=0.01).turn(call, SystemClock(), first=0, calls=0)


def test_open_load_counts_from_when_a_call_should_have_been_sent(clock: FakeClock) -> None:
    """One client, one slow call: those behind it waited, and say so."""
    load = Open(rate=100, clients=1, seconds=0.2, seed=3)
    durations = iter([100 * MS] + [1 * MS] * 19)
    turn = load.turn(lambda _: clock.run(next(durations)), clock, first=0, calls=0)
    wanted, free = [], 0
    for moment, took in zip(load.offsets(0).tolist(), [100] + [1] * 19, strict=True):
        free = max(free, moment) + took * MS
        wanted.append(free - moment)
    assert turn.latencies.tolist() == wanted
    assert turn.starts.tolist() == load.offsets(0).tolist()
    late = sum(latency > 2 * MS for latency in wanted)
    assert late > 5  # a client that measures from its own sending would report one


def test_open_load_waits_for_its_moments(clock: FakeClock, caller: Caller) -> None:
    load = Open(rate=10, clients=1, seconds=1)
    turn = load.turn(caller(1000), clock, first=0, calls=0)
    assert clock.waits == load.offsets(0).tolist()
    assert turn.latencies.tolist() == [1000] * 10
    assert turn.occupancy < 0.1


def test_open_load_beyond_the_capacity_occupies_its_clients(
    clock: FakeClock, caller: Caller
) -> None:
    turn = Open(rate=1000, clients=1, seconds=0.5).turn(caller(5 * MS), clock, first=0, calls=0)
    assert turn.calls == 500
    assert turn.occupancy > 0.99
    assert int(turn.latencies[-1]) > 1900 * MS


def test_gaps_are_exponential_and_the_same_for_the_same_input() -> None:
    load = Open(rate=200, clients=1, seconds=100)
    offsets = load.offsets(0)
    gaps = np.diff(offsets) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert offsets.tolist() == load.offsets(0).tolist() != load.offsets(1).tolist()


def test_loads_describe_themselves() -> None:
    assert Sequential().describe() == {"kind": "closed", "clients": 1}
    assert Closed(clients=4, seconds=1).describe() == {"kind": "closed", "clients": 4}
    assert Open(rate=5.0, clients=2, seconds=1).describe() == {
        "kind": "open",
        "rate": 5.0,
        "clients": 2,
    }


def test_the_clock_of_the_system_moves_on_and_waits() -> None:
    clock = SystemClock()
    moment = clock.now() + 3 * MS
    clock.wait_until(moment)
    assert clock.now() >= moment
    clock.wait_until(moment - MS)  # past: returns at once
    cpu = clock.cpu()
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        pass
    assert clock.cpu() > cpu
