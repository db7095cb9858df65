"""What is to be measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FeedError
from .candidates import MODES, Mode
from .race import Rules
from .turns import Closed, Load, Open, Sequential
from .verdict import FLOOR

_LOAD_TURNS = 12
_LEAST_TURN = 0.25
"""Seconds of a turn of clients or of open load: long enough for a queue to form."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be measured; `fuselage.bench` documents the options.

    Raises:
        FeedError: when options contradict one another.
    """

    subjects: tuple[str, ...]
    baselines: tuple[str, ...] = ()
    model: str | None = None
    task: str = "auto"
    mode: Mode = "engine"
    shapes: tuple[str, ...] = ()
    texts: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ()
    clients: int = 1
    rate: float | None = None
    rules: Rules = field(default_factory=Rules)
    threads: int = 0
    floor: float = FLOOR
    memory: bool = True
    anyway: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        checked_mode(self.mode)
        if self.clients < 1 or (self.rate is not None and not 0 < self.rate < math.inf):
            raise FeedError(
                f"bench: expected at least 1 client and a rate above 0, got {self.clients} and "
                f"{self.rate}"
            )
        if not 0 <= self.floor < 1:
            raise FeedError(f"floor: expected a share from 0 to below 1, got {self.floor}")

    @property
    def is_alone(self) -> bool:
        """Whether one client makes a call after another."""
        return self.rate is None and self.clients == 1

    def load(self) -> Load:
        """How calls follow one another."""
        turn = max(self.rules.seconds / _LOAD_TURNS, _LEAST_TURN)
        if self.rate is not None:
            return Open(rate=self.rate, clients=self.clients, seconds=turn)
        return Closed(clients=self.clients, seconds=turn) if self.clients > 1 else Sequential()


def checked_mode(mode: str) -> Mode:
    """Read the name of a mode.

    Raises:
        FeedError: when there is no such mode.
    """
    for known in MODES:
        if mode == known:
            return known
    raise FeedError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
