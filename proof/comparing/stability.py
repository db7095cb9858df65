"""Whether a subject answers a text the same alone, in a batch, padded further, and once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.tensors import Array, Feeds
from ..subjects.base import Subject
from .cases import Case, Sizes
from .measures import measure, together

Answer = dict[str, Array]

_RUNS = 3
_PADDING = 7
"""Columns added: no multiple of what kernels like."""


IN_BATCH, PADDED = "in a batch instead of alone", "padded further"
"""What is done to a text, for messages."""


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """How much a text's answer depends on what stands beside it.

    Attributes:
        rows: texts that were asked alone, in a batch and padded further; 0 when none could be.
        in_batch: output -> metrics of alone against in a batch.
        padded: output -> metrics of in a batch against the same batch padded further.
        faults: (output, why) of what could not be measured, such as NaN beside other texts only.
    """

    rows: int
    in_batch: dict[str, dict[str, float | None]]
    padded: dict[str, dict[str, float | None]]
    faults: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Determinism:
    """Whether the same feeds give the same bits.

    Attributes:
        runs: how often the feeds were asked.
        identical: whether every answer had the same bits.
        max_abs: largest difference between two answers.
    """

    runs: int
    identical: bool
    max_abs: float


def padded_case(cases: Sequence[Case], sizes: Sizes) -> Case | None:
    """The case that invariance is measured on: rows of several lengths, padded on the right.

    One that can be padded further is preferred; None when there is none of the kind.
    """
    found = [case for case in cases if _is_ragged(case)]
    roomy = [case for case in found if _width(case) + _PADDING <= sizes.sequence[1]]
    return next(iter(roomy or found), None)


def _is_ragged(case: Case) -> bool:
    mask = case.mask
    if mask is None or len(mask) < 2 or case.empty_rows.size or case.redrawn is not None:
        return False
    is_right = not (np.diff(mask.astype(np.int8), axis=1) > 0).any()
    return bool(is_right and mask.sum(axis=1).min() < mask.shape[1])


def _width(case: Case) -> int:
    return 0 if case.mask is None else case.mask.shape[1]


def invariance(subject: Subject, case: Case | None, sizes: Sizes) -> Invariance:
    """Ask each row alone without padding, all in a batch, and the batch padded further.

    Args:
        subject: who is asked; kept answers cannot be.
        case: from `padded_case`.
        sizes: what the subject takes.
    """
    if case is None or case.mask is None or subject.kept or sizes.batch[0] > 1:
        return Invariance(rows=0, in_batch={}, padded={})
    lengths = case.mask.sum(axis=1)
    rows = [row for row, length in enumerate(lengths) if length >= max(sizes.sequence[0], 1)]
    alone = [subject.run(_row(case.feeds, row, int(lengths[row]))) for row in rows]
    whole = subject.run(case.feeds)
    in_batch, faults = _changes(subject, alone, [_cut(whole, row) for row in rows], IN_BATCH)
    padded: dict[str, dict[str, float | None]] = {}
    if _width(case) + _PADDING <= sizes.sequence[1]:
        wide = subject.run(_padded(case.feeds, case))
        cut = [_cut(whole, row, like) for row, like in zip(rows, alone, strict=True)]
        padded, more = _changes(subject, cut, [_cut(wide, row) for row in rows], PADDED)
        faults += more
    return Invariance(rows=len(rows), in_batch=in_batch, padded=padded, faults=tuple(faults))


def determinism(subject: Subject, case: Case) -> Determinism:
    """Ask the same several times."""
    answers = [subject.run(case.feeds) for _ in range(_RUNS)]
    first, identical, largest = answers[0], True, 0.0
    for answer in answers[1:]:
        for name, array in answer.items():
            identical &= array.tobytes() == first[name].tobytes()
            with np.errstate(invalid="ignore"):  # infinity less infinity
                error = np.abs(np.subtract(array, first[name], dtype=np.float64))
            largest = max(largest, float(np.nan_to_num(error).max(initial=0.0)))
    return Determinism(runs=_RUNS, identical=bool(identical), max_abs=largest)


def _row(feeds: Feeds, row: int, length: int) -> dict[str, Array]:
    return {name: array[row : row + 1, :length] for name, array in feeds.items()}


def _cut(outputs: Answer, row: int, like: Answer | None = None) -> Answer:
    """One row of the outputs, its tokens cut to those of another answer."""
    cut = {name: array[row : row + 1] for name, array in outputs.items()}
    if like is None:
        return cut
    return {name: array[tuple(map(slice, like[name].shape))] for name, array in cut.items()}


def _changes(
    subject: Subject, before: Sequence[Answer], after: Sequence[Answer], words: str
) -> tuple[dict[str, dict[str, float | None]], list[tuple[str, str]]]:
    """Metrics of each output over rows, and the first fault of each.

    What follows the tokens of the first answer is padding.
    """
    found, faults = {}, []
    for name in (spec.name for spec in subject.outputs):
        parts = []
        for first, second in zip(before, after, strict=True):
            wanted = first[name]
            got = second[name][tuple(map(slice, wanted.shape))]
            parts.append(measure(wanted, got, np.ones(wanted.shape, bool), is_logits=False))
        found[name] = together(parts)
        wrong = [part.fault for part in parts if part.fault is not None]
        faults += [(name, f"{words}, {fault}") for fault in wrong[:1]]
    return found, faults


def _padded(feeds: Feeds, case: Case) -> dict[str, Array]:
    """More columns, each a copy of one that stands at padding."""
    assert case.mask is not None
    row, column = np.argwhere(~case.mask)[0]
    wider = {}
    for name, array in feeds.items():
        filler = np.full((len(array), _PADDING), array[row, column], array.dtype)
        wider[name] = np.concatenate([array, filler], axis=1)
    return wider
