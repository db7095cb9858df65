"""The clock of a race: monotonic nanoseconds, the CPU time of this process, and waiting."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_SPIN = 1_000_000
"""Nanoseconds before a moment from which waiting is done awake: a sleep ends up to 0.1 ms late."""


class Clock(Protocol):
    """What a race reads; tests have one that they move themselves."""

    def now(self) -> int:
        """Monotonic time in nanoseconds."""

    def cpu(self) -> int:
        """CPU time of all threads of this process in nanoseconds."""

    def wait_until(self, moment: int) -> None:
        """Return at a moment of `now`, at once when it is past."""


class SystemClock:
    """``perf_counter_ns`` and ``process_time_ns``."""

    def now(self) -> int:
        """Monotonic time in nanoseconds."""
        return time.perf_counter_ns()

    def cpu(self) -> int:
        """CPU time of all threads of this process in nanoseconds."""
        return time.process_time_ns()

    def wait_until(self, moment: int) -> None:
        """Sleep, and stay awake for the last millisecond."""
        left = moment - self.now()
        if left > _SPIN:
            time.sleep((left - _SPIN) / 1e9)
        while self.now() < moment:
            time.sleep(0)  # lets the other clients run


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Collect once, then leave garbage alone; a collection would fall into somebody's turn."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
