"""Whether candidates compute the same at all: the time of another computation says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...graph.tensors import Array
from .candidates import Candidate
from .work import Work

LARGEST = 0.3
"""Relative difference of answers up to which candidates pass for precisions of one model. INT8
of small encoders differs by a tenth; another model, or an input that is not read, by about 1."""


def agreement_notes(candidates: Sequence[Candidate], works: Sequence[Work]) -> tuple[str, ...]:
    """Ask every candidate the first input of the first work.

    Args:
        candidates: the first is what the others are held to.
        works: with feeds.

    Returns:
        A line for each candidate that answers something else.

    Raises:
        FuselageError: as a candidate does.
    """
    feeds = works[0].inputs[0]
    first, *others = candidates
    wanted = first.subject.run(feeds)
    notes = []
    for other in others:
        difference = relative_difference(other.subject.run(feeds), wanted)
        if difference is not None and not difference <= LARGEST:
            notes.append(
                f"{other.name} answers otherwise than {first.name} (relative difference "
                f"{difference:.2g}): its time may be that of another computation; "
                "see fuselage compare"
            )
    return tuple(notes)


def relative_difference(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float | None:
    """Largest relative Frobenius difference of the outputs both have.

    Returns:
        None when they have no output in common; infinite for other shapes.
    """
    common = [name for name in wanted if name in got]
    return max((_difference(got[name], wanted[name]) for name in common), default=None)


def _difference(got: Array, wanted: Array) -> float:
    if got.shape != wanted.shape:
        return float("inf")
    ours, theirs = got.astype(np.float64), wanted.astype(np.float64)
    distance = float(np.linalg.norm(ours - theirs))
    if not np.isfinite(distance):
        return float("inf")
    return distance / max(float(np.linalg.norm(theirs)), float(np.finfo(np.float64).tiny))
