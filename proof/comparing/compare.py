"""Compares candidates with a reference: asks, measures, judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import FuselageError, VerificationError
from ..subjects.base import Subject
from .cases import Case
from .comparator import Keep, measure_all
from .failures import (
    Failure,
    OutputResult,
    judge_outputs,
    stability_failures,
    worst_case,
)
from .gates import Gates
from .measures import Measures, scale_of, scaled, together
from .sources import Asked, make_cases
from .stability import Determinism, Invariance, determinism, invariance, padded_case

_Located = tuple[str | None, dict[str, Any] | None, str | None]
"""The first layer that is off, in one line and as JSON; or why nobody knows."""

_NOT_LOCATED: _Located = (None, None, None)
_UNSOUGHT = "the first layer that is off was not looked for"


@dataclass(frozen=True, kw_only=True)
class CandidateResult:
    """How one candidate answers.

    Attributes:
        name: of the candidate.
        precision: what it was held to, where it is known.
        outputs: one each.
        failures: worst first; empty when it passed.
        invariance: whether batch and padding sway its answers.
        determinism: whether it answers the same again.
        divergence: the first layer that is off, in one line; None when it passed or nobody knows.
        divergence_facts: the same as JSON.
        notes: what the user should know.
    """

    name: str
    precision: str | None
    outputs: tuple[OutputResult, ...]
    failures: tuple[Failure, ...]
    invariance: Invariance
    determinism: Determinism
    divergence: str | None = None
    divergence_facts: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every bound holds."""
        return not self.failures


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came of comparing candidates with a reference.

    Attributes:
        reference: its name.
        precision: of the reference, where it is known.
        candidates: one each.
        cases: what was asked.
        noise: output -> metrics of the reference against itself in float64; empty when there is
            no such.
        notes: what the user should know of the cases.
    """

    reference: str
    precision: str | None
    candidates: tuple[CandidateResult, ...]
    cases: tuple[Case, ...] = field(repr=False)
    noise: dict[str, dict[str, float | None]]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every candidate passed."""
        return all(candidate.passed for candidate in self.candidates)

    def as_document(self) -> dict[str, Any]:
        """The document of kind ``comparison``, fit for JSON; see docs/compare.md."""
        from .document import comparison_document

        return comparison_document(self)


def compare_subjects(
    reference: Subject,
    candidates: Sequence[Subject],
    asked: Asked,
    gates: Gates | None = None,
    *,
    keep: Keep | None = None,
    locate: bool = True,
) -> Comparison:
    """Compare candidates with a reference.

    Args:
        reference: what is right.
        candidates: at least one.
        asked: where the cases come from.
        gates: what the user allows; None for the defaults.
        keep: told of every answer.
        locate: look for the first layer that is off when a candidate fails.

    Raises:
        VerificationError: when inputs or outputs are not the same, there is no candidate, or the
            reference answers NaN.
        FuselageError: when a subject cannot answer.
    """
    gates = gates or Gates()
    _check_same(reference, candidates)
    gates.check_outputs([spec.name for spec in reference.outputs])
    cases, sizes, notes = make_cases([reference, *candidates], asked)
    precise = reference.in_float64()
    everyone = [*candidates, *([precise] if precise is not None else ())]
    try:
        measured = measure_all(reference, everyone, cases, keep)
    finally:
        if precise is not None:
            precise.close()
    noise = {} if precise is None else _by_output(reference, measured.pop())
    floors = {name: together(parts) for name, parts in noise.items()}
    results = []
    for candidate, parts in zip(candidates, measured, strict=True):
        answers = _by_output(reference, parts)
        outputs, failures = judge_outputs(answers, cases, gates, candidate, floors)
        sway = invariance(candidate, padded_case(cases, sizes), sizes)
        failures += stability_failures(outputs, sway)
        divergence = _NOT_LOCATED
        if failures and locate:
            divergence = _divergence(reference, candidate, outputs, failures[0], cases)
        results.append(_result(candidate, outputs, failures, sway, cases, divergence))
    return Comparison(
        reference=reference.name,
        precision=reference.precision,
        candidates=tuple(results),
        cases=cases,
        noise=floors,
        notes=notes,
    )


def _check_same(reference: Subject, candidates: Sequence[Subject]) -> None:
    if not candidates:
        raise VerificationError("compare: expected at least one candidate beside the reference")
    for candidate in candidates:
        for what in ("inputs", "outputs"):
            wanted, got = ([spec.name for spec in getattr(s, what)] for s in (reference, candidate))
            if set(wanted) != set(got):
                raise VerificationError(
                    f"{candidate.name} has the {what} {', '.join(got)}, but {reference.name} has "
                    f"{', '.join(wanted)}; compare subjects of the same model and task"
                )


def _by_output(
    reference: Subject, measured: Sequence[dict[str, Measures]]
) -> dict[str, tuple[Measures, ...]]:
    found = {}
    for spec in reference.outputs:
        parts = [case[spec.name] for case in measured]
        found[spec.name] = scaled(parts, scale_of(parts))
    return found


def _result(
    candidate: Subject,
    outputs: tuple[OutputResult, ...],
    failures: Sequence[Failure],
    sway: Invariance,
    cases: Sequence[Case],
    divergence: _Located,
) -> CandidateResult:
    line, facts, note = divergence
    return CandidateResult(
        name=candidate.name,
        precision=candidate.precision,
        outputs=outputs,
        failures=tuple(failures),
        invariance=sway,
        determinism=determinism(candidate, cases[0]),
        divergence=line,
        divergence_facts=facts,
        notes=(*candidate.notes, *([note] if note else [])),
    )


def _divergence(
    reference: Subject,
    candidate: Subject,
    outputs: Sequence[OutputResult],
    failure: Failure,
    cases: Sequence[Case],
) -> _Located:
    if reference.kept or candidate.kept:
        return None, None, f"{_UNSOUGHT}: kept answers hold no values of the layers between"
    try:
        from ..locating.locate import locate_divergence
    except ImportError as error:  # a host that runs engines and builds none
        return None, None, f"{_UNSOUGHT}: {error}"
    output = next(output for output in outputs if output.name == failure.output)
    worst = failure.case or worst_case("relative", output.cases, cases)
    feeds = next((case.feeds for case in cases if case.name == worst), cases[0].feeds)
    tolerance = _tolerated(output, worst, cases)
    try:
        divergence = locate_divergence(reference, candidate, feeds, tolerance=tolerance)
    except FuselageError as error:
        return None, None, f"the first layer that is off was not found: {error}"
    if divergence is None:
        return None, None, "no layer alone is off by more than the whole"
    return str(divergence), divergence.as_json(), None


def _tolerated(output: OutputResult, worst: str | None, cases: Sequence[Case]) -> float:
    """What a value inside may be off: at most the bound, and less than the output itself is.

    An INT8 answer may fail by its cosine alone, well within its bound on the relative error.
    """
    named = zip(cases, output.cases, strict=True)
    found = next((part for case, part in named if case.name == worst), None)
    bound = output.bounds["relative"]
    return bound if found is None or found.fault else min(bound, found.relative / 2)
