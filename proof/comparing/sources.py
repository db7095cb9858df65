"""Where cases come from: kept answers, texts through a tokenizer, or the structure of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...calibration.text.samples import Sample
from ...compiler.checks.proof import TEXTS
from ...errors import VerificationError
from ...graph.tensors import Feeds, TensorSpec
from ..subjects.base import Subject
from .cases import Case, Mask, Sizes, text_cases

TEXT_LIMIT = 64
"""Texts drawn of what the user gives."""

_MASK = "attention_mask"
_AXES = ("batch", "sequence")
_MOST = 1024
"""Rows and tokens where nobody says how many are taken."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user wants asked.

    Attributes:
        texts: texts, pairs or token ids; None for those that ship.
        cases: what is asked in place of texts and built-in cases.
    """

    texts: Sequence[Sample] | None = None
    cases: tuple[Case, ...] = field(default=(), repr=False)


def make_cases(
    subjects: Sequence[Subject], asked: Asked
) -> tuple[tuple[Case, ...], Sizes, tuple[str, ...]]:
    """Cases that all subjects take, what sizes they take, and notes on how the cases came about.

    Args:
        subjects: all of them, the reference first.
        asked: texts, or cases that are ready.

    Raises:
        VerificationError: when there is nothing to ask.
        TextError: when a text cannot be tokenised.
        CalibrationError: when an ONNX file accepts no sample.
    """
    sizes = common_sizes(subjects)
    if asked.cases:
        return asked.cases, sizes, ()
    kept = next((subject for subject in subjects if subject.kept), None)
    if kept is not None:
        cases = tuple(_kept_case(name, feeds) for name, feeds in kept.kept.items())
        return cases, sizes, (f"the cases are those of {kept.name}",)
    for subject in subjects:
        if subject.task is not None and subject.tokenizer is not None:
            texts = TEXTS if asked.texts is None else asked.texts
            return text_cases(subject.tokenizer, subject.task, texts, sizes), sizes, ()
    graph = next((subject.graph for subject in subjects if subject.graph is not None), None)
    if asked.texts is not None:
        raise VerificationError(
            "--text needs a tokenizer, which ONNX files have none of; compare with torch:MODEL or "
            "bundle:DIR, or leave out --text"
        )
    if graph is None:
        raise VerificationError("there is nothing to ask: no subject has a tokenizer or a graph")
    note = "no subject has a tokenizer: the inputs are drawn by what the graph uses them for"
    return _drawn_cases(graph), sizes, (note,)


def common_sizes(subjects: Sequence[Subject]) -> Sizes:
    """(least, most) of batch and sequence that every subject takes."""
    ranges = dict.fromkeys(_AXES, (1, _MOST))
    for subject in subjects:
        if subject.profile is not None:
            for axis in _AXES:
                least, _, most = subject.profile.axes.get(axis, (1, 1, ranges[axis][1]))
                ranges[axis] = (max(ranges[axis][0], least), min(ranges[axis][1], most))
        least, most = ranges["sequence"]
        ranges["sequence"] = (least, min(most, _longest(subject)))
        for spec in subject.inputs:
            _narrow(ranges, spec)
    for axis, (least, most) in ranges.items():
        if least > most:
            raise VerificationError(
                f"no {axis} size is taken by all of {', '.join(s.name for s in subjects)}: the "
                f"least is {least}, the most {most}"
            )
    return Sizes(batch=ranges["batch"], sequence=ranges["sequence"])


def _longest(subject: Subject) -> int:
    """Tokens of a text that the subject takes, as far as it says so."""
    widths = [
        array.shape[1]
        for feeds in subject.kept.values()
        for array in feeds.values()
        if array.ndim > 1
    ]
    known = [max(widths)] if widths else []
    return min([*known, subject.task.max_tokens] if subject.task else known, default=_MOST)


def _narrow(ranges: dict[str, tuple[int, int]], spec: TensorSpec) -> None:
    """A size that is fixed in a graph is the only one."""
    if len(spec.dims) != len(_AXES):
        return
    for axis, dim in zip(_AXES, spec.dims, strict=True):
        if isinstance(dim, int):
            ranges[axis] = (max(ranges[axis][0], dim), min(ranges[axis][1], dim))


def _kept_case(name: str, feeds: Feeds) -> Case:
    mask = feeds.get(_MASK)
    is_mask = mask is not None and mask.ndim == len(_AXES)
    return Case(name=name, feeds=feeds, mask=_as_mask(mask) if is_mask else None)


def _as_mask(array: object) -> Mask:
    mask: Mask = np.asarray(array) != 0
    return mask


def _drawn_cases(graph: Path) -> tuple[Case, ...]:
    from ...compiler.packages import REWRITING, require

    require(REWRITING, "drawing inputs for an ONNX file")
    from ...compiler.checks.reference import reference_answers
    from ...graph.model import Graph

    cases = []
    for answer in reference_answers(Graph.load(graph)):
        case, sample = answer.sample.case, answer.sample
        name = f"batch {case.batch}, length {case.sequence}, padding {case.padding}"
        empty = sample.empty_rows
        mask = ~np.repeat(empty[:, None], 1, axis=1) if empty.size else None
        cases.append(Case(name=name, feeds=sample.feeds, mask=mask, redrawn=sample.redrawn))
    return tuple(cases)
