"""The bundle that a build starts from when it replaces weights alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engines.text.task import TaskSpec
from ..profiles.plan import ShapePlan
from .kept_graph import KeptGraph


@dataclass(frozen=True, kw_only=True)
class Held:
    """What stays, and what the rest is held to.

    Attributes:
        shapes: profiles and buckets of the bundle.
        plans: target -> folder of the engine that is refitted, not built.
        check: told task, tokenizer.json and canonical graph; raises on another architecture.
        judge: told the report before anything is in place; raises on what must not be.
    """

    shapes: ShapePlan
    plans: Mapping[str, Path]
    check: Callable[[TaskSpec, Path, KeptGraph], None]
    judge: Callable[[Mapping[str, Any]], None]
