"""What a stage's product depends on, in clear, and the one digest of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...engines.strict_json import json_digest

SCHEMA = 1
"""Of entries, and of what stages keep in them: raise it when old ones cannot be read any more."""


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """Everything that has a say in the product of one stage.

    Attributes:
        stage: name of the stage; products of different stages never meet.
        model: id of the model, for people; it has no say.
        target: of the engine, empty for stages that all targets share.
        fields: JSON; digests stand for what is large.
    """

    stage: str
    model: str
    target: str = ""
    fields: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """sha256 over the stage and the fields; equal keys, equal products."""
        return json_digest({"schema": SCHEMA, "stage": self.stage, "fields": self.fields})

    @property
    def title(self) -> str:
        """The stage and its target, for people."""
        return f"{self.stage} {self.target}".strip()
