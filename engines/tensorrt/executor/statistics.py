"""What an executor did and holds, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class LaneStatistics:
    """Counters since the engine was opened, and what is held now.

    Attributes:
        calls: runs queued.
        graph_launches: of these, runs that were one graph launch.
        captures: graphs recorded.
        capture_failures: shapes that run without a graph because recording failed.
        evictions: graphs dropped.
        graphs: graphs held.
        buffer_bytes: input and output memory held, on the GPU and again in pinned host memory.
        workspace_bytes: scratch memory held on the GPU.
    """

    calls: int = 0
    graph_launches: int = 0
    captures: int = 0
    capture_failures: int = 0
    evictions: int = 0
    graphs: int = 0
    buffer_bytes: int = 0
    workspace_bytes: int = 0

    @classmethod
    def total(cls, lanes: Iterable[LaneStatistics]) -> LaneStatistics:
        """The sum over the lanes of an engine."""
        parts = tuple(lanes)
        return cls(**{item.name: sum(getattr(p, item.name) for p in parts) for item in fields(cls)})
