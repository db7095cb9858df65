"""ShapePlan: the optimisation profiles of a build and the lengths that texts are padded to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ...errors import BuildError
from ...graph.tensors import ShapeProfile

BATCH, SEQUENCE = "batch", "sequence"


@dataclass(frozen=True, kw_only=True)
class ShapePlan:
    """Which sizes the engines of a build take.

    Attributes:
        profiles: by length, the shortest first; each has the axes batch and sequence. Together
            they take every length from the least to the longest.
        buckets: lengths that texts are padded to, ascending, the last the longest; empty when
            they are padded to the longest of their batch alone.
        padding: what the lengths of the user's texts come to, for the report; empty when the
            profiles were not fitted to any.

    Raises:
        BuildError: when a length between is in no profile, or no batch is in all of them.
    """

    profiles: tuple[ShapeProfile, ...]
    buckets: tuple[int, ...] = ()
    padding: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reach = self.profiles[0].axes[SEQUENCE][2]
        for _, profile in pairwise(self.profiles):
            least, _, longest = profile.axes[SEQUENCE]
            if least > reach + 1:
                raise BuildError(
                    f"shapes: sequences of {reach + 1} to {least - 1} are in no profile of "
                    f"{'; '.join(map(str, self.profiles))}; let a profile begin where another ends"
                )
            reach = max(reach, longest)
        least, _, most = self._common(BATCH)
        if least > most:
            raise BuildError(
                f"shapes: no batch is in every profile of {'; '.join(map(str, self.profiles))}; "
                f"let each of them take a batch of {least}"
            )

    @property
    def whole(self) -> ShapeProfile:
        """From the least to the most of every axis; not every such size is in a profile."""
        return ShapeProfile({BATCH: self._span(BATCH), SEQUENCE: self._span(SEQUENCE)})

    @property
    def everywhere(self) -> ShapeProfile:
        """The batches that every profile takes, at all lengths; every such size is in a profile."""
        return ShapeProfile({BATCH: self._common(BATCH), SEQUENCE: self._span(SEQUENCE)})

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "profiles": [
                {axis: list(sizes) for axis, sizes in profile.axes.items()}
                for profile in self.profiles
            ],
            "buckets": list(self.buckets),
            "padding": dict(self.padding) or None,
        }

    def _span(self, axis: str) -> tuple[int, int, int]:
        lows, bests, highs = zip(*(profile.axes[axis] for profile in self.profiles), strict=True)
        return min(lows), bests[len(bests) // 2], max(highs)

    def _common(self, axis: str) -> tuple[int, int, int]:
        lows, bests, highs = zip(*(profile.axes[axis] for profile in self.profiles), strict=True)
        low, high = max(lows), min(highs)
        return low, min(max(low, min(bests)), max(low, high)), high
