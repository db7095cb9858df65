"""What a batcher has done, in bounded memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

RECENT = 1024
"""Batches that are remembered one by one."""


@dataclass(frozen=True, kw_only=True)
class BatchRecord:
    """One batch.

    Attributes:
        lane: which ran it.
        texts: in it.
        requests: that they belong to.
        tokens: of the texts, special tokens included.
        padded_tokens: texts times the widest.
        queue_ms: that its head waited.
        compute_ms: from forming to the answer of the engine.
    """

    lane: int
    texts: int
    requests: int
    tokens: int
    padded_tokens: int
    queue_ms: float
    compute_ms: float

    @property
    def fill(self) -> float:
        """Share of tokens among what was computed."""
        return self.tokens / self.padded_tokens


@dataclass(frozen=True, kw_only=True)
class BatcherMetrics:
    """A batcher at one moment.

    Attributes:
        waiting: texts in the queue.
        running: texts in the lanes.
        accepted: requests that were let in so far.
        answered: of those.
        overloaded: requests refused because too many texts waited.
        expired: requests whose deadline passed.
        cancelled: requests that were given up by who asked.
        failed: requests that the engine did not answer, or that were left when it closed.
        batches: run so far.
        texts: in them.
        tokens: of those.
        padded_tokens: computed for them.
        queue_seconds: sum over batches of what their heads waited.
        compute_seconds: sum over batches.
        recent: the last `RECENT` batches, oldest first.
    """

    waiting: int = 0
    running: int = 0
    accepted: int = 0
    answered: int = 0
    overloaded: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    batches: int = 0
    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    recent: tuple[BatchRecord, ...] = ()


@dataclass
class Tally:
    """The numbers behind `BatcherMetrics`; changed under the batcher's lock."""

    running: int = 0
    accepted: int = 0
    answered: int = 0
    overloaded: int = 0
    expired: int = 0
    cancelled: int = 0
    failed: int = 0
    batches: int = 0
    texts: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    recent: deque[BatchRecord] = field(default_factory=lambda: deque(maxlen=RECENT))

    def add(self, record: BatchRecord) -> None:
        """Count a batch."""
        self.batches += 1
        self.texts += record.texts
        self.tokens += record.tokens
        self.padded_tokens += record.padded_tokens
        self.queue_seconds += record.queue_ms / 1e3
        self.compute_seconds += record.compute_ms / 1e3
        self.recent.append(record)

    def snapshot(self, waiting: int) -> BatcherMetrics:
        """The numbers as they are."""
        numbers = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return BatcherMetrics(**(numbers | {"waiting": waiting, "recent": tuple(self.recent)}))
