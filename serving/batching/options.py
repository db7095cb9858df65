"""How batches are formed and how many may wait."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import FuselageError


@dataclass(frozen=True, kw_only=True)
class BatcherOptions:
    """Bounds of a `TokenBatcher`; None stands for what suits the engine.

    Attributes:
        max_queue: texts that may wait; a request beyond them is refused at once.
        max_batch: texts of a batch, at most what the runtime takes.
        max_tokens: texts times the longest of them, at most what the runtime takes.
        fill_floor: least share of a batch that is tokens rather than padding that texts bring upon
            each other, 0 to 1; 0.9 on a CPU, where padding costs what tokens cost, else 0.7.
        age_cap: seconds that a text waits before it joins the next batch with room for it, whatever
            padding that makes; 0.5 on a CPU, else 0.05.
        deadline: seconds a request has for its answer when it names none; None for any.
        lanes: batches that run at the same time; 1 on a CPU, whose threads one batch keeps busy,
            else 2.

    Raises:
        FuselageError: when a bound is out of its range.
    """

    max_queue: int = 1024
    max_batch: int | None = None
    max_tokens: int | None = None
    fill_floor: float | None = None
    age_cap: float | None = None
    deadline: float | None = None
    lanes: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_batch", "max_tokens", "lanes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FuselageError(f"batching: {name}: expected an integer >= 1, got {value}")
        if self.fill_floor is not None and not 0 <= self.fill_floor <= 1:
            raise FuselageError(f"batching: fill_floor: expected 0 to 1, got {self.fill_floor}")
        if self.age_cap is not None and not 0 <= self.age_cap < math.inf:
            raise FuselageError(f"batching: age_cap: expected seconds >= 0, got {self.age_cap}")
        if self.deadline is not None and not self.deadline > 0:
            raise FuselageError(f"batching: deadline: expected seconds > 0, got {self.deadline}")
