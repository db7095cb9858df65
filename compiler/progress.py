"""What a long build tells whoever is watching."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ..graph.history import StageRecord


class Listener(Protocol):
    """Told about stages as they begin, advance and end; about decisions as they are made."""

    def started(self, stage: str) -> None:
        """A stage that may take longer than a second begins."""

    def advanced(self, done: int, total: int) -> None:
        """The current stage has done a countable part of its work."""

    def ended(self, stage: str, seconds: float) -> None:
        """The stage is over."""

    def note(self, line: str) -> None:
        """Something the user should know; also in the report."""


class Silent:
    """A listener for callers who do not watch."""

    def started(self, stage: str) -> None:
        """Ignored."""

    def advanced(self, done: int, total: int) -> None:
        """Ignored."""

    def ended(self, stage: str, seconds: float) -> None:
        """Ignored."""

    def note(self, line: str) -> None:
        """Ignored."""


@dataclass
class Journal:
    """Collects what the report says about the stages, and passes it on to a listener.

    Attributes:
        listener: who watches.
        records: every stage and pass, in order.
        notes: decisions the user should know.
        not_checked: where and why numbers were not compared.
    """

    listener: Listener
    records: list[StageRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.listener.started(name)
        start = time.perf_counter()
        yield
        self.listener.ended(name, time.perf_counter() - start)

    def record(self, stage: str, seconds: float, nodes_before: int, nodes_after: int) -> None:
        """Add a stage that is no pass."""
        self.records.append(
            StageRecord(
                stage=stage, seconds=seconds, nodes_before=nodes_before, nodes_after=nodes_after
            )
        )

    def note(self, line: str) -> None:
        """Keep a line for the report and show it."""
        self.notes.append(line)
        self.listener.note(line)
