"""Whether a subject answers a text the same alone, in a batch, padded further, and once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...graph.tensors import Array, Feeds, TensorSpec
from ..subjects.base import Subject
from .cases import Case, Sizes
from .measures import Measures, measure, together

_RUNS = 3
_PADDING = 7
"""Columns added: no multiple of what kernels like."""


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """How much a text's answer depends on what stands beside it.

    Attributes:
        rows: texts that were asked alone, in a batch and padded further; 0 when none could be.
        in_batch: output -> metrics of alone against in a batch.
        padded: output -> metrics of in a batch against the same batch padded further.
    """

    rows: int
    in_batch: dict[str, dict[str, float | None]]
    padded: dict[str, dict[str, float | None]]


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


def test_case(cases: Sequence[Case]) -> Case | None:
    """The case that invariance is measured on: several rows, padded on the right, none empty."""
    for case in cases:
        mask = case.mask
        if mask is None or len(mask) < 2 or case.empty_rows.size or case.redrawn is not None:
            continue
        ragged = mask.sum(axis=1).min() < mask.shape[1]
        if ragged and not (np.diff(mask.astype(np.int8), axis=1) > 0).any():
            return case
    return None


def invariance(subject: Subject, case: Case | None, sizes: Sizes) -> Invariance:
    """Ask each row alone without padding, all in a batch, and the batch padded further.

    Args:
        subject: who is asked; kept answers cannot be.
        case: from `test_case`.
        sizes: what the subject takes.
    """
    if case is None or case.mask is None or subject.kept or sizes.batch[0] > 1:
        return Invariance(rows=0, in_batch={}, padded={})
    lengths = case.mask.sum(axis=1)
    rows = [row for row, length in enumerate(lengths) if length >= max(sizes.sequence[0], 1)]
    whole = subject.run(case.feeds)
    in_batch: dict[str, list[Measures]] = {spec.name: [] for spec in subject.outputs}
    for row in rows:
        length = int(lengths[row])
        alone = subject.run({n: array[row : row + 1, :length] for n, array in case.feeds.items()})
        for spec in subject.outputs:
            wanted = alone[spec.name]
            in_batch[spec.name].append(_measured(wanted, _cut(spec, whole, row, wanted)))
    further = _padded(case.feeds, case)
    padded: dict[str, list[Measures]] = {}
    if case.mask.shape[1] + _PADDING <= sizes.sequence[1]:
        wide = subject.run(further)
        padded = {
            spec.name: [
                _measured(_cut(spec, whole, row, like), _cut(spec, wide, row, like))
                for row in rows
                for like in [whole[spec.name][row : row + 1]]
            ]
            for spec in subject.outputs
            if whole[spec.name].shape == wide[spec.name].shape
        }
    return Invariance(
        rows=len(rows),
        in_batch={name: together(parts) for name, parts in in_batch.items()},
        padded={name: together(parts) for name, parts in padded.items()},
    )


def determinism(subject: Subject, case: Case) -> Determinism:
    """Ask the same several times."""
    answers = [subject.run(case.feeds) for _ in range(_RUNS)]
    first, identical, largest = answers[0], True, 0.0
    for answer in answers[1:]:
        for name, array in answer.items():
            identical &= array.tobytes() == first[name].tobytes()
            error = np.abs(array.astype(np.float64) - first[name].astype(np.float64))
            largest = max(largest, float(np.nan_to_num(error).max(initial=0.0)))
    return Determinism(runs=_RUNS, identical=bool(identical), max_abs=largest)


def _cut(spec: TensorSpec, outputs: dict[str, Array], row: int, like: Array) -> Array:
    """One row of an output, its tokens cut to those of another answer."""
    array = outputs[spec.name][row : row + 1]
    return array[tuple(slice(size) for size in like.shape)]


def _measured(wanted: Array, got: Array) -> Measures:
    return measure(wanted, got, np.ones(wanted.shape, bool), is_logits=False)


def _padded(feeds: Feeds, case: Case) -> dict[str, Array]:
    """More columns, each a copy of one that stands at padding."""
    assert case.mask is not None
    row, column = np.argwhere(~case.mask)[0]
    wider = {}
    for name, array in feeds.items():
        filler = np.full((len(array), _PADDING), array[row, column], array.dtype)
        wider[name] = np.concatenate([array, filler], axis=1)
    return wider
