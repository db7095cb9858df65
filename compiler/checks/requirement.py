"""``--require attention=all``: which blocks must be fused, or nothing is written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import BuildError, VerificationError
from .fusion import KINDS

_FORM = re.compile(r"(?P<kind>[a-z_]+)\s*(=\s*all|>=\s*(?P<least>\d+))")
_MOST_REFUSALS = 8


@dataclass(frozen=True)
class Requirement:
    """What is asked of one kind of block.

    Attributes:
        kind: one of `KINDS`.
        least: how many blocks must be fused; None for all that were found.
    """

    kind: str
    least: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}=all" if self.least is None else f"{self.kind}>={self.least}"

    def is_met(self, counts: Mapping[str, Any]) -> bool:
        """Whether the counts of the kind (``found``, ``fused``) are enough."""
        found, fused = counts["found"], counts["fused"]
        return bool(fused >= (found if self.least is None else self.least))


def parse_requirements(texts: Sequence[str] | None) -> tuple[Requirement, ...]:
    """Read ``attention=all``, ``attention>=6``, also several in one text, parted by commas.

    Raises:
        BuildError: when a text has another form or names no kind.
    """
    parts = [part.strip() for text in texts or () for part in text.split(",")]
    return tuple(map(_parse, parts))


def _parse(text: str) -> Requirement:
    match = _FORM.fullmatch(text)
    if match is None or match["kind"] not in KINDS:
        raise BuildError(
            f"requirement {text!r}: expected KIND=all or KIND>=NUMBER, with KIND one of "
            f"{', '.join(KINDS)}; for example attention=all"
        )
    return Requirement(match["kind"], None if match["least"] is None else int(match["least"]))


def check_requirements(
    requirements: Sequence[Requirement], fusion: Mapping[str, Any], origin: object
) -> None:
    """Refuse a graph with blocks left.

    Args:
        requirements: what was asked for.
        fusion: the counts of a report: kind -> ``found``, ``fused``, ``refusals``.
        origin: of the graph, for the message.

    Raises:
        VerificationError: with the refusals of every requirement that is not met.
    """
    unmet = [(r, fusion.get(r.kind)) for r in requirements]
    lines = [
        _complaint(requirement, counts)
        for requirement, counts in unmet
        if counts is None or not requirement.is_met(counts)
    ]
    if lines:
        raise VerificationError(f"{origin}: {'; '.join(lines)}")


def _complaint(requirement: Requirement, counts: Mapping[str, Any] | None) -> str:
    if counts is None:
        return f"{requirement} was required, but the report does not count {requirement.kind}"
    reasons = list(
        dict.fromkeys(
            f"{refusal['node'] or 'the graph'}: {refusal['reason']}"
            for refusal in counts["refusals"]
        )
    )
    more = len(reasons) - _MOST_REFUSALS
    shown = reasons[:_MOST_REFUSALS] + ([f"and {more} more"] if more > 0 else [])
    left = f" ({'; '.join(shown)})" if shown else ""
    return f"{requirement} was required, but {counts['fused']} of {counts['found']} are fused{left}"
