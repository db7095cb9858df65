"""One turn of a candidate: one call after another, by many clients, or at moments of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .clock import Clock

Nanoseconds = NDArray[np.int64]

Call = Callable[[int], float | None]
"""Runs input number i. Answers with the nanoseconds that the device took by its own clock, or None
where the host's clock decides."""

Span = tuple[int, int, int]
"""When a call began or should have begun, its latency from there, and the time it itself took."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one turn took.

    Attributes:
        starts: when each call began, or under open load should have begun [calls].
        latencies: from there to its answer [calls].
        wall: from the first start to the last answer.
        cpu: CPU time of this process meanwhile.
        occupancy: share of the time that a client was waiting for an answer; near 1 under open
            load, calls come faster than they are answered.
        joules: energy of the CPU packages meanwhile; None where it cannot be read.
    """

    starts: Nanoseconds = field(repr=False)
    latencies: Nanoseconds = field(repr=False)
    wall: int
    cpu: int
    occupancy: float = 1.0
    joules: float | None = None

    @property
    def calls(self) -> int:
        """How many were timed."""
        return self.latencies.size


class Load(Protocol):
    """How calls follow one another."""

    def turn(self, call: Call, clock: Clock, first: int, calls: int) -> Turn:
        """Time one turn.

        Args:
            call: of the candidate.
            clock: to read.
            first: number of the first input.
            calls: how many to time; loads that last a time take no notice.
        """

    def describe(self) -> dict[str, object]:
        """For the document."""


@dataclass(frozen=True)
class Sequential:
    """One client that waits for each answer."""

    def turn(self, call: Call, clock: Clock, first: int, calls: int) -> Turn:
        """Time so many calls, one after another."""
        with _Stopwatch(clock, 1) as watch:
            spans = [_timed(call, clock, first + index) for index in range(calls)]
        return watch.turn(spans)

    def describe(self) -> dict[str, object]:
        """For the document."""
        return {"kind": "closed", "clients": 1}


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Clients that each send the next call when the last was answered.

    Attributes:
        clients: how many.
        seconds: of a turn.
    """

    clients: int
    seconds: float

    def turn(self, call: Call, clock: Clock, first: int, calls: int) -> Turn:
        """Time all clients until the turn is over, each at least one call.

        Calls under way at the end are waited for.
        """
        del calls
        end = clock.now() + int(self.seconds * 1e9)
        numbers = count(first)

        def work() -> Iterator[Span]:
            while True:  # one call at least, or a short turn on a slow machine has no latency
                yield _timed(call, clock, next(numbers))
                if clock.now() >= end:
                    return

        with _Stopwatch(clock, self.clients) as watch:
            spans = _by_clients(work, self.clients)
        return watch.turn(spans)

    def describe(self) -> dict[str, object]:
        """For the document."""
        return {"kind": "closed", "clients": self.clients}


@dataclass(frozen=True, kw_only=True)
class Open:
    """Calls that come when they come, as users do, whether earlier ones were answered or not.

    A latency counts from when the call should have been sent, so that waiting for a client that is
    still busy counts: no coordinated omission, as Gil Tene calls it.

    Attributes:
        rate: calls a second; the gaps are exponential (a Poisson process).
        clients: threads that send them, first come first served.
        seconds: of a turn.
        seed: of the gaps; turns with the same first input have the same gaps.
    """

    rate: float
    clients: int
    seconds: float
    seed: int = 0

    def turn(self, call: Call, clock: Clock, first: int, calls: int) -> Turn:
        """Time the calls of one turn until the last is answered."""
        del calls
        waiting = enumerate(clock.now() + self.offsets(first), start=first)
        lock = threading.Lock()

        def work() -> Iterator[Span]:
            while True:
                with lock:
                    number, moment = next(waiting, (0, None))
                if moment is None:
                    return
                clock.wait_until(int(moment))
                start, latency, took = _timed(call, clock, number)
                yield int(moment), start - int(moment) + latency, took

        with _Stopwatch(clock, self.clients) as watch:
            spans = _by_clients(work, self.clients)
        return watch.turn(spans)

    def offsets(self, first: int) -> Nanoseconds:
        """When the calls of a turn are sent, in nanoseconds from its start."""
        rng = np.random.default_rng((self.seed, first))
        gaps = rng.exponential(1e9 / self.rate, max(1, round(self.rate * self.seconds)))
        moments: Nanoseconds = np.cumsum(gaps).astype(np.int64)
        return moments

    def describe(self) -> dict[str, object]:
        """For the document."""
        return {"kind": "open", "rate": self.rate, "clients": self.clients}


class _Stopwatch:
    """Wall and CPU time of a turn."""

    def __init__(self, clock: Clock, clients: int) -> None:
        self._clock, self._clients = clock, clients

    def __enter__(self) -> _Stopwatch:
        self._cpu, self._begun = self._clock.cpu(), self._clock.now()
        return self

    def __exit__(self, *_: object) -> None:
        self._wall = self._clock.now() - self._begun
        self._cpu = self._clock.cpu() - self._cpu

    def turn(self, spans: list[Span]) -> Turn:
        """What the calls took."""
        starts, latencies, took = np.array(sorted(spans), np.int64).reshape(-1, 3).T
        return Turn(
            starts=starts,
            latencies=latencies,
            wall=self._wall,
            cpu=self._cpu,
            occupancy=float(took.sum() / max(1, self._clients * self._wall)),
        )


def _timed(call: Call, clock: Clock, number: int) -> Span:
    start = clock.now()
    device = call(number)
    took = clock.now() - start if device is None else int(device)
    return start, took, took


def _by_clients(work: Callable[[], Iterator[Span]], clients: int) -> list[Span]:
    """Run the work of every client; one alone runs in this thread.

    Raises:
        Exception: the first that a client met; the others end their turn first.
    """
    if clients == 1:
        return list(work())
    with ThreadPoolExecutor(clients, "client") as pool:
        running = [pool.submit(lambda: list(work())) for _ in range(clients)]
    return [span for done in running for span in done.result()]
