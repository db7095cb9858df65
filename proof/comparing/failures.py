"""Holds what was measured to its bounds, and says what does not keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..subjects.base import Subject
from .cases import Case
from .gates import EVERY, Gates
from .measures import MOST, TOGETHER, Measures, broken, together
from .stability import IN_BATCH, PADDED, Invariance

NOISE_FACTOR = 4.0
"""A candidate may be this many times as far from the reference as the reference from float64."""

NOTHING_JUDGED = (
    "in no case is there a number that could be judged: the reference's answers all stand at "
    "padding or depend on hidden tokens"
)


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


def judge_outputs(
    measured: dict[str, tuple[Measures, ...]],
    cases: Sequence[Case],
    gates: Gates,
    candidate: Subject,
    floors: dict[str, dict[str, float | None]],
) -> tuple[tuple[OutputResult, ...], list[Failure]]:
    """Hold every output of a candidate to its bounds.

    Args:
        measured: output -> measures of each case.
        cases: in the same order.
        gates: what the user allows.
        candidate: who answered; its precision decides the defaults.
        floors: output -> metrics of the reference against itself in float64.
    """
    outputs, failures = [], []
    for name, parts in measured.items():
        bounds = _bounds(name, gates, candidate, floors.get(name, {}))
        metrics = together(parts)
        outputs.append(OutputResult(name=name, metrics=metrics, bounds=bounds, cases=parts))
        failures += _failures(name, parts, cases, bounds, metrics)
    return tuple(outputs), failures + _unmeasured(outputs, gates)


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
    if not any(part.elements or part.fault for part in parts):
        faults.append(Failure(output=output, reason=NOTHING_JUDGED, case=None))
    averages = {name: bound for name, bound in bounds.items() if name in TOGETHER}
    found = [
        Failure(output=output, reason=reason, case=None) for reason in broken(metrics, averages)
    ]
    for metric in bounds.keys() - averages.keys():
        worst = worst_case(metric, parts, cases)
        values = {metric: metrics[metric]}
        found += [
            Failure(output=output, reason=reason, case=worst)
            for reason in broken(values, {metric: bounds[metric]})
        ]
    found.sort(key=lambda failure: (failure.case is None, not failure.reason.startswith("rel")))
    return faults + found


def _unmeasured(outputs: Sequence[OutputResult], gates: Gates) -> list[Failure]:
    """Bounds the user set on what has no value; a bound on every output needs it of one."""
    known = {output.name: _with_value(output) for output in outputs if _is_measured(output)}
    failures = []
    for name, has in known.items():
        everywhere = set().union(*known.values())
        missing = [metric for metric in gates.outputs.get(name, {}) if metric not in has]
        missing += [m for m in gates.outputs.get(EVERY, {}) if m not in everywhere | set(missing)]
        failures += [
            Failure(output=name, reason=f"{metric} has a bound and no value here", case=None)
            for metric in missing
        ]
    return failures


def _is_measured(output: OutputResult) -> bool:
    return all(part.fault is None for part in output.cases) and any(
        part.elements for part in output.cases
    )


def _with_value(output: OutputResult) -> set[str]:
    """Without noise there is no ratio of signal to it, and every bound holds."""
    return {"snr_db", *(name for name, value in output.metrics.items() if value is not None)}


def worst_case(metric: str, parts: Sequence[Measures], cases: Sequence[Case]) -> str | None:
    """Name of the case that is furthest off by a metric; None when it has no value in any."""
    values = [part.metrics()[metric] for part in parts]
    known = [
        (value, case.name) for value, case in zip(values, cases, strict=True) if value is not None
    ]
    if not known:
        return None
    return (max if metric in MOST else min)(known)[1]


def stability_failures(outputs: Sequence[OutputResult], sway: Invariance) -> list[Failure]:
    """What batch and padding change must stay within what an engine may be off at all."""
    failures = [Failure(output=name, reason=why, case=None) for name, why in sway.faults]
    for output in outputs:
        bounds = {k: v for k, v in output.bounds.items() if k in ("relative", "cosine_min")}
        for words, metrics in (
            (IN_BATCH, sway.in_batch.get(output.name, {})),
            (PADDED, sway.padded.get(output.name, {})),
        ):
            failures += [
                Failure(output=output.name, reason=f"{words}, {reason}", case=None)
                for reason in broken(metrics, bounds)
            ]
    return failures
