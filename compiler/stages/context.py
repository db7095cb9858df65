"""What all stages of one build share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...engines import host
from ...engines.bundle import BundleWriter
from ..cache.key import StageKey
from ..models.source import ModelSource
from ..precision import Assignment
from ..progress import Journal
from ..recipe import Recipe, Request
from .held import Held
from .product import StageRunner


@dataclass(frozen=True, kw_only=True)
class Context:
    """One build.

    Attributes:
        request: what the user asks for.
        source: the model.
        recipe: everything that has a say in the bundle.
        assignment: precision of every target.
        journal: what is told.
        writer: of the bundle.
        runner: runs stages, or takes their products from the cache.
        held: the bundle whose weights are replaced; None in a build from nothing.
    """

    request: Request
    source: ModelSource
    recipe: Recipe
    assignment: Assignment
    journal: Journal
    writer: BundleWriter
    runner: StageRunner
    held: Held | None = None

    def key(self, stage: str, fields: dict[str, Any], *, target: str = "") -> StageKey:
        """The key of a stage of this build."""
        if target:
            fields = {"target": target, **fields}
        # As it will be read again, so that what differs is told in the same spelling.
        fields = json.loads(json.dumps(fields))
        return StageKey(stage=stage, model=self.source.id, target=target, fields=fields)


def versions(*packages: str) -> dict[str, str]:
    """Packages that have a say in a stage, those that are installed."""
    return host.package_versions(packages)
