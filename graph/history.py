"""What happened to a graph on its way: one record a stage, and the refusals with their reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A rewrite that matched in part and was declined.

    Attributes:
        rule: name of the rule, for example ``fuse-attention``.
        node: name of the node at the root of the near miss.
        reason: one clause that says what differed.
    """

    rule: str
    node: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What one stage did to a graph.

    Attributes:
        stage: spec of the pass or name of the stage, for example ``merge-qkv``.
        seconds: wall-clock time.
        nodes_before: nodes of the main graph before the stage.
        nodes_after: nodes of the main graph after the stage.
        rewrites: matches replaced; 0 when nothing changed.
        refusals: matches declined.
        rolled_back: why the result was thrown away, or None when it was kept.
    """

    stage: str
    seconds: float
    nodes_before: int
    nodes_after: int
    rewrites: int = 0
    refusals: tuple[Refusal, ...] = ()
    rolled_back: str | None = None
