"""Streams, events and graphs of the fake GPU: what is queued, and in which order it may happen."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


class MisuseError(AssertionError):
    """The caller broke a rule that real CUDA or TensorRT punishes with undefined behaviour."""


@dataclass(eq=False)
class Work:
    """One queued step; it may begin once ``after`` is done."""

    action: Callable[[], None]
    after: Work | None = None
    done: bool = False

    @property
    def runnable(self) -> bool:
        return self.after is None or self.after.done


@dataclass(eq=False)
class Stream:
    """A queue; while it captures, what is queued goes into a graph instead."""

    device: int
    work: deque[Work] = field(default_factory=deque)
    last: Work | None = None
    capture: list[Callable[[], None]] | None = None
    broken: bool = False

    def push(self, action: Callable[[], None], after: Work | None = None) -> None:
        if self.capture is not None:
            self.capture.append(action)
            return
        self.last = Work(action, after)
        self.work.append(self.last)


class Scheduler:
    """Runs queued work, in an order drawn from those that streams and events allow."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def finish(self, target: Stream, streams: list[Stream]) -> None:
        """Run until nothing is queued on ``target``; other streams get ahead or stay behind."""
        while target.work:
            able = [stream for stream in streams if stream.work and stream.work[0].runnable]
            if not able:
                raise MisuseError("streams wait for one another for ever")
            eager = target in able and self._random.random() < 0.6
            step = (target if eager else self._random.choice(able)).work.popleft()
            step.done = True  # also when it fails, so that the streams can still be emptied
            step.action()
