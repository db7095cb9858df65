"""Runs all subjects on all cases through Polygraphy's Comparator and measures what they answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import VerificationError
from ...graph.tensors import Array
from ..subjects.base import Subject
from .cases import Case, Mask
from .judged import is_logits, judged_elements, promises_empty_rows
from .measures import Measures, measure
from .runners import SubjectRunner, comparator, quiet

Keep = Callable[[int, int, dict[str, Array]], None]
"""Told of every answer: index of the subject (0 is the reference), index of the case, outputs."""


class MeasureCase:
    """Polygraphy's comparison function: measures, and lets nothing pass that cannot be measured.

    The Comparator asks it case by case and, for each, pair by pair.

    Args:
        reference: what is right.
        subjects: the others, in the order of the pairs.
        cases: in the order they are asked.

    Attributes:
        measured: of each subject, for each case: output -> measures.
    """

    def __init__(
        self, reference: Subject, subjects: Sequence[Subject], cases: Sequence[Case]
    ) -> None:
        self.measured: list[list[dict[str, Measures]]] = [[] for _ in subjects]
        self._reference = reference
        self._subjects = subjects
        self._cases = cases
        self._calls = 0
        self._redrawn: dict[str, Array] | None = None

    def __call__(self, first: Any, second: Any) -> OrderedDict[str, bool]:
        """Measure one subject on one case; True for each output that could be measured."""
        at, which = divmod(self._calls, len(self._subjects))
        self._calls += 1
        case = self._cases[at]
        if not which:
            self._redrawn = None if case.redrawn is None else self._reference.run(case.redrawn)
        found = {
            spec.name: measure(
                first[spec.name],
                second[spec.name],
                self._judged(which, spec.name, case, first[spec.name]),
                is_logits=is_logits(self._reference, spec.name),
            )
            for spec in self._reference.outputs
        }
        self.measured[which].append(found)
        return OrderedDict((name, item.fault is None) for name, item in found.items())

    def _judged(self, which: int, output: str, case: Case, answer: Array) -> Mask:
        spec = next(spec for spec in self._reference.outputs if spec.name == output)
        promised = all(map(promises_empty_rows, (self._reference, self._subjects[which])))
        judged = judged_elements(spec, case, answer, self._redrawn, with_empty_rows=promised)
        if answer.dtype.kind == "f" and not np.isfinite(answer[judged]).all():
            raise VerificationError(
                f"{self._reference.name}: the reference itself answers NaN or infinity in "
                f"{output!r} for the case {case.name!r}; nothing can be compared with it"
            )
        return judged


def measure_all(
    reference: Subject, subjects: Sequence[Subject], cases: Sequence[Case], keep: Keep | None = None
) -> list[list[dict[str, Measures]]]:
    """Ask everybody everything.

    Args:
        reference: what is right.
        subjects: the others; they have the reference's outputs.
        cases: what to ask.
        keep: told of every answer, for those who save them.

    Returns:
        For each subject, for each case: output -> measures.

    Raises:
        VerificationError: when the reference answers NaN.
        FeedError: when a subject does not take a case.
    """
    everyone = [reference, *subjects]
    runners = [
        SubjectRunner(subject, f"{at} {subject.name}") for at, subject in enumerate(everyone)
    ]
    function = MeasureCase(reference, subjects, cases)
    with quiet():
        stream = comparator().run(
            runners, data_loader=[OrderedDict(case.feeds) for case in cases], streaming=True
        )
        comparator().compare_accuracy(
            stream if keep is None else _kept(stream, keep),
            comparisons=[(0, at) for at in range(1, len(everyone))],
            compare_func=function,
        )
    return function.measured


def _kept(stream: Any, keep: Keep) -> Iterator[Any]:
    try:
        for case, results in enumerate(stream):
            for which, (_, iterations) in enumerate(results):
                keep(which, case, dict(iterations[0].items()))
            yield results
    finally:
        stream.close()
