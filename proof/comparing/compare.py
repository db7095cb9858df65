"""Compares candidates with a reference: asks, measures, judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import FuselageError, VerificationError
from ..subjects.base import Subject
from .cases import Case
from .comparator import Keep, measure_all
from .gates import Gates
from .measures import MOST, TOGETHER, Measures, broken, scale_of, scaled, together
from .sources import Asked, make_cases
from .stability import Determinism, Invariance, determinism, invariance, padded_case

NOISE_FACTOR = 4.0
"""A candidate may be this many times as far from the reference as the reference from float64."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A bound that does not hold.

    Attributes:
        output: name of the output.
        reason: metric, value and bound, or why nothing could be measured.
        case: where; None for an average over all cases.
    """

    output: str
    reason: str
    case: str | None

    def __str__(self) -> str:
        where = f" in the case {self.case!r}" if self.case else ""
        return f"{self.output}: {self.reason}{where}"


@dataclass(frozen=True, kw_only=True)
class OutputResult:
    """One output of one candidate.

    Attributes:
        name: of the output.
        metrics: over all cases.
        bounds: what it was held to.
        cases: measures of each case, in their order.
    """

    name: str
    metrics: dict[str, float | None]
    bounds: dict[str, float]
    cases: tuple[Measures, ...] = field(repr=False)


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
        outputs, failures = _judge(_by_output(reference, parts), cases, gates, candidate, floors)
        found = _Found(outputs, failures)
        steady = determinism(candidate, cases[0])
        sway = invariance(candidate, padded_case(cases, sizes), sizes)
        found.failures += _stability_failures(outputs, sway)
        results.append(_result(reference, candidate, found, sway, steady, cases, locate=locate))
    return Comparison(
        reference=reference.name,
        precision=reference.precision,
        candidates=tuple(results),
        cases=cases,
        noise=floors,
        notes=notes,
    )


@dataclass
class _Found:
    outputs: tuple[OutputResult, ...]
    failures: list[Failure]


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


def _judge(
    measured: dict[str, tuple[Measures, ...]],
    cases: Sequence[Case],
    gates: Gates,
    candidate: Subject,
    floors: dict[str, dict[str, float | None]],
) -> tuple[tuple[OutputResult, ...], list[Failure]]:
    outputs, failures = [], []
    for name, parts in measured.items():
        bounds = _bounds(name, gates, candidate, floors.get(name, {}))
        metrics = together(parts)
        outputs.append(OutputResult(name=name, metrics=metrics, bounds=bounds, cases=parts))
        failures += _failures(name, parts, cases, bounds, metrics)
    return tuple(outputs), failures


def _bounds(
    output: str, gates: Gates, candidate: Subject, floor: dict[str, float | None]
) -> dict[str, float]:
    """Nobody is held to less than the noise of the reference itself, unless the user says so."""
    bounds = gates.bounds(output, candidate.precision)
    noise = floor.get("relative")
    if noise is not None and gates.is_default(output, candidate.precision, "relative"):
        bounds["relative"] = max(bounds["relative"], NOISE_FACTOR * noise)
    return bounds


def _failures(
    output: str,
    parts: Sequence[Measures],
    cases: Sequence[Case],
    bounds: dict[str, float],
    metrics: dict[str, float | None],
) -> list[Failure]:
    faults = [
        Failure(output=output, reason=part.fault, case=case.name)
        for part, case in zip(parts, cases, strict=True)
        if part.fault is not None
    ]
    averages = {name: bound for name, bound in bounds.items() if name in TOGETHER}
    found = [
        Failure(output=output, reason=reason, case=None) for reason in broken(metrics, averages)
    ]
    for metric in bounds.keys() - averages.keys():
        worst = _worst_case(metric, parts, cases)
        values = {metric: metrics[metric]}
        found += [
            Failure(output=output, reason=reason, case=worst)
            for reason in broken(values, {metric: bounds[metric]})
        ]
    found.sort(key=lambda failure: (failure.case is None, not failure.reason.startswith("rel")))
    return faults + found


def _worst_case(metric: str, parts: Sequence[Measures], cases: Sequence[Case]) -> str | None:
    values = [part.metrics()[metric] for part in parts]
    known = [
        (value, case.name) for value, case in zip(values, cases, strict=True) if value is not None
    ]
    if not known:
        return None
    return (max if metric in MOST else min)(known)[1]


def _stability_failures(outputs: Sequence[OutputResult], sway: Invariance) -> list[Failure]:
    """What batch and padding change must stay within what an engine may be off at all."""
    failures = []
    for output in outputs:
        bounds = {k: v for k, v in output.bounds.items() if k in ("relative", "cosine_min")}
        for words, metrics in (
            ("in a batch instead of alone", sway.in_batch.get(output.name, {})),
            ("padded further", sway.padded.get(output.name, {})),
        ):
            failures += [
                Failure(output=output.name, reason=f"{words}, {reason}", case=None)
                for reason in broken(metrics, bounds)
            ]
    return failures


def _result(
    reference: Subject,
    candidate: Subject,
    found: _Found,
    sway: Invariance,
    steady: Determinism,
    cases: Sequence[Case],
    *,
    locate: bool,
) -> CandidateResult:
    notes = list(candidate.notes)
    line, facts = None, None
    if found.failures and locate and not (reference.kept or candidate.kept):
        line, facts, note = _divergence(reference, candidate, found, cases)
        notes += [note] if note else []
    return CandidateResult(
        name=candidate.name,
        precision=candidate.precision,
        outputs=found.outputs,
        failures=tuple(found.failures),
        invariance=sway,
        determinism=steady,
        divergence=line,
        divergence_facts=facts,
        notes=tuple(notes),
    )


def _divergence(
    reference: Subject, candidate: Subject, found: _Found, cases: Sequence[Case]
) -> tuple[str | None, dict[str, Any] | None, str | None]:
    """The first layer that is off, in one line and as JSON; or why nobody knows."""
    try:
        from ..locating.locate import locate_divergence
    except ImportError:
        return None, None, None
    failure = found.failures[0]
    output = next(output for output in found.outputs if output.name == failure.output)
    worst = failure.case or _worst_case("relative", output.cases, cases)
    feeds = next((case.feeds for case in cases if case.name == worst), cases[0].feeds)
    tolerance = output.bounds["relative"]
    try:
        divergence = locate_divergence(reference, candidate, feeds, tolerance=tolerance)
    except FuselageError as error:
        return None, None, f"the first layer that is off was not found: {error}"
    if divergence is None:
        return None, None, "no layer alone is off by more than the whole"
    return str(divergence), divergence.as_json(), None
