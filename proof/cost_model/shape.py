"""The shape a cost is asked for, and the sizes of a graph's axes that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...compiler.checks.input_roles import input_roles, size_plans
from ...compiler.checks.sampling import Case, draw
from ...errors import FeedError
from ...graph.model import Graph
from ...graph.tensors import Array

_TEXT = re.compile(r"(\d{1,6})x(\d{1,7})(?:\+(\d{1,7}))?")


@dataclass(frozen=True, order=True)
class CostShape:
    """Sizes of one call.

    Attributes:
        batch: texts.
        sequence: tokens of each.
        past: tokens that a cache holds already.
    """

    batch: int
    sequence: int
    past: int = 0

    @classmethod
    def parse(cls, text: str) -> CostShape:
        """``8x128``, or ``8x1+127`` for one token behind 127 in a cache.

        Raises:
            FeedError: when the text is no shape, or a size is 0.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None or not int(found[1]) or not int(found[2]):
            raise FeedError(
                f"shape {text!r}: expected BATCHxSEQUENCE of at least 1x1, such as 8x128, or "
                "8x1+127 for a cache of 127 tokens"
            )
        return cls(int(found[1]), int(found[2]), int(found[3] or 0))

    def __str__(self) -> str:
        past = f"+{self.past}" if self.past else ""
        return f"{self.batch}x{self.sequence}{past}"

    @property
    def case(self) -> Case:
        """The sizes as a sample has them: nothing is padded."""
        return Case(batch=self.batch, sequence=self.sequence, target=self.sequence, past=self.past)


def sizes_at(graph: Graph, shape: CostShape) -> dict[str, int]:
    """The size of every dynamic axis of the inputs, by what the inputs are for."""
    plan = next(size_plans(input_roles(graph)))
    return {symbol: shape.case.size(role) for symbol, role in plan.items()}


def feeds_at(graph: Graph, shape: CostShape) -> Mapping[str, Array]:
    """Random feeds: every token is real, every id is inside its table.

    Raises:
        CalibrationError: when an input would take more than a sample may.
    """
    roles = input_roles(graph)
    return draw(roles, next(size_plans(roles)), shape.case).feeds
