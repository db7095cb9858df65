"""Which landmark is the first that the candidate gets wrong by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .align import Alignment
from .pairing import Pair

PRESENT = 0.5
"""A landmark has a counterpart when its error is at most this; unrelated values differ by 1."""

_TIMES = 4.0
"""A landmark is off when its local error is so many times that of its kind in the other layers.
MiniLM's kinds exceed that by up to 2.6 in INT8 and by 1.7 in float32. No more is conceded than so
many times the roundings of the precision, because layers behind a gross fault are not all set
right."""

_CLEARLY = 0.5
"""A value is the counterpart of the landmark it is nearest to, and of others about as near."""

FLOORS: Mapping[str, float] = {
    "fp64": 4e-6,  # the reference is float32
    "fp32": 4e-6,
    "fp16": 4e-3,
    "bf16": 3e-2,
    "int8": 1e-1,
    "int8-weight-only": 3e-2,
    "fp8": 1e-1,
}
"""Local errors that are roundings of a precision: 64 units of float32's last place (MiniLM has 13
at most), 8 of the 16-bit ones', whose products are added in float32; of int8 what MiniLM has (up
to 7e-2). Those of int8-weight-only and fp8 are estimates."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The first landmark that is off.

    Attributes:
        index: of the landmark.
        pair: the nearest value, None when nothing has its shape.
        error: local.
        limit: that it exceeds.
        agreed: indices of the landmarks before it that agree.
        gradual: whether no landmark exceeds its limit and this one is merely the furthest beyond
            what its kind has elsewhere.
    """

    index: int
    pair: Pair | None
    error: float
    limit: float
    agreed: tuple[int, ...]
    gradual: bool = False


def first_off(alignment: Alignment, floor: float) -> Finding | None:
    """Walk the landmarks in order; the first whose local error exceeds its limit.

    The limit is four times what landmarks of the same kind (the same place in other layers) have,
    and lies between `floor` and four times `floor`. A landmark without a counterpart is off when
    others of its kind have one, when a value of its shape is nobody else's counterpart, or when one
    holds NaN or infinity; otherwise it was fused away.

    A fault that is a factor or a constant of each channel alone, as that of a bias, is told from a
    folded one by what comes next, so the landmark behind it is named.

    Args:
        alignment: landmarks and counterparts.
        floor: errors up to this are roundings.
    """
    judged = _Judged(alignment, floor)
    for index in range(len(alignment.marks)):
        if judged.is_off(index):
            return judged.finding(index)
    return None


def furthest(alignment: Alignment, floor: float) -> Finding | None:
    """Where no landmark is off: the one that is furthest beyond its kind in the other layers."""
    judged = _Judged(alignment, floor)
    present = [index for index in range(len(alignment.marks)) if judged.agrees(index)]
    if not present:
        return None
    index = max(present, key=lambda one: judged.error(one) / judged.limit(one))
    return judged.finding(index, gradual=True)


class _Judged:
    """What each landmark is held to."""

    def __init__(self, alignment: Alignment, floor: float) -> None:
        self._alignment = alignment
        self._floor = floor
        self._kinds: dict[str, list[int]] = {}
        for index, mark in enumerate(alignment.marks):
            self._kinds.setdefault(mark.kind, []).append(index)
        agreeing = (one for one, pair in alignment.run.items() if pair.error <= floor)
        self._last_in_run = max(agreeing, default=-1)
        self._owners: dict[str, int] = {}
        for index in sorted(alignment.local, key=lambda one: alignment.local[one].error):
            self._owners.setdefault(alignment.local[index].value, index)

    def pair(self, index: int) -> Pair | None:
        """The counterpart."""
        return self._alignment.local.get(index)

    def error(self, index: int) -> float:
        """Local error; infinite when nothing has the landmark's shape, or what has is another's."""
        pair = self.pair(index)
        if pair is None:
            return float("inf")
        owner = self._owners[pair.value]
        nearer = self._alignment.local[owner].error < _CLEARLY * pair.error
        return float("inf") if nearer and pair.error > self._floor else pair.error

    def limit(self, index: int) -> float:
        """What the local error may be."""
        present = sorted(error for error in self._errors(index) if error <= PRESENT)
        level = present[(len(present) - 1) // 2] if present else 0.0
        return min(max(min(level, self._floor) * _TIMES, self._floor), PRESENT)

    def is_off(self, index: int) -> bool:
        """Whether the candidate gets the landmark wrong."""
        error = self.error(index)
        if error <= self.limit(index):
            return False
        return error <= PRESENT or self._is_missed(index)

    def agrees(self, index: int) -> bool:
        """Whether the candidate has the landmark, and right."""
        return self.error(index) <= self.limit(index)

    def finding(self, index: int, *, gradual: bool = False) -> Finding:
        """What is said of the landmark."""
        return Finding(
            index=index,
            pair=self.pair(index),
            error=self.error(index),
            limit=self.limit(index),
            agreed=tuple(one for one in range(index) if self.agrees(one)),
            gradual=gradual,
        )

    def _is_missed(self, index: int) -> bool:
        if index in self._alignment.overflowed and index > self._last_in_run:
            return True
        if any(error <= PRESENT for error in self._errors(index)):
            return True
        pair = self._alignment.local.get(index)
        alone = len(self._kinds[self._alignment.marks[index].kind]) == 1
        return alone and pair is not None and self._owners[pair.value] == index

    def _errors(self, index: int) -> Iterator[float]:
        for other in self._others(index):
            yield self.error(other)

    def _others(self, index: int) -> list[int]:
        return [one for one in self._kinds[self._alignment.marks[index].kind] if one != index]
