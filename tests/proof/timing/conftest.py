"""A clock that moves only when told, and calls that move it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest


@dataclass
class FakeClock:
    """Time passes while a call runs or somebody waits, and at no other moment.

    Attributes:
        time: nanoseconds so far.
        cores: of each nanosecond of a call, so many are CPU time.
        waits: moments that were waited for.
    """

    time: int = 0
    cores: int = 2
    busy: int = 0
    waits: list[int] = field(default_factory=list)

    def now(self) -> int:
        return self.time

    def cpu(self) -> int:
        return self.busy

    def wait_until(self, moment: int) -> None:
        self.waits.append(moment)
        self.time = max(self.time, moment)

    def run(self, nanoseconds: float) -> None:
        self.time += int(nanoseconds)
        self.busy += int(nanoseconds) * self.cores


Noise = Callable[[int, random.Random], float]
"""Time and a generator to a factor of all calls made then."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caller(clock: FakeClock) -> Callable[..., Callable[[int], None]]:
    """caller(ns): a call that takes so long; caller(ns, noise, rng) times what noise says."""

    def make(
        nanoseconds: float, noise: Noise | None = None, rng: random.Random | None = None
    ) -> Callable[[int], None]:
        def call(number: int) -> None:
            del number
            factor = 1.0 if noise is None or rng is None else noise(clock.time, rng)
            clock.run(nanoseconds * factor)

        return call

    return make
