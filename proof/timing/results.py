"""What a benchmark found, and its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .business import Business
from .figures import Figures
from .memory import Memory
from .request import Request
from .turns import Turn
from .verdict import Verdict
from .work import Work

SCHEMA = 1
KIND = "benchmark"


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """One piece of work.

    Attributes:
        work: what was asked.
        figures: candidate -> its figures.
        joules: candidate -> energy of its turns; None where it cannot be read.
        verdicts: candidate -> against the first of the race; empty on a busy machine.
        turns: candidate -> its turns.
    """

    work: Work
    figures: Mapping[str, Figures]
    joules: Mapping[str, float | None]
    verdicts: Mapping[str, Verdict]
    turns: Mapping[str, Sequence[Turn]] = field(repr=False)

    def joules_per_1000(self, name: str) -> float | None:
        """Energy of 1,000 sequences; of all that the machine did meanwhile."""
        joules = self.joules[name]
        sequences = self.figures[name].calls * self.work.sequences
        return None if joules is None else round(joules / sequences * 1000, 4)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a benchmark found.

    Attributes:
        request: what was asked for.
        subjects: candidate -> its subject in full, or the model of a baseline.
        precisions: candidate -> what it computes in, None where that is not known.
        environment: see `machine`, with ``business``.
        business: what others did meanwhile.
        results: one a piece of work.
        memory: candidate -> peak memory of a process of its own; or why it was not measured.
        skipped: baseline -> why it was not measured.
        notes: what the user should know, such as a fallback that was taken.
        energy_blocker: why energy was not measured; empty when it was.
        texts: where texts come from; empty when none were read.
    """

    request: Request
    subjects: Mapping[str, str]
    precisions: Mapping[str, str | None]
    environment: Mapping[str, object]
    business: Business
    results: tuple[WorkResult, ...]
    memory: Mapping[str, Memory | str]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    energy_blocker: str
    texts: str

    @property
    def reference(self) -> str:
        """The candidate that the others are compared with."""
        return next(iter(self.results[0].figures))

    def document(self) -> dict[str, Any]:
        """The JSON document that docs/bench.md describes."""
        request, during = self.request, self.business
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "environment": dict(self.environment) | {"business": asdict(during)},
            "mode": request.mode,
            "load": request.load().describe(),
            "rules": asdict(request.rules) | {"floor": request.floor},
            "texts": self.texts,
            "reference": self.reference,
            "candidates": {
                name: {"subject": self.subjects[name], "precision": precision}
                for name, precision in self.precisions.items()
            },
            "concluded": not during.is_busy,
            "works": [_work(result) for result in self.results],
            "memory": {name: _memory(found) for name, found in self.memory.items()},
            "energy": self.energy_blocker or "RAPL, all CPU packages",
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
        }


def _work(result: WorkResult) -> dict[str, Any]:
    work = result.work
    return {
        "name": work.name,
        "sequences": work.sequences,
        "tokens": round(work.mean_tokens, 1),
        "fill": None if work.fill is None else round(work.fill, 4),
        "candidates": {
            name: found.as_json() | {"joules_per_1000": result.joules_per_1000(name)}
            for name, found in result.figures.items()
        },
        "verdicts": {name: verdict_json(found) for name, found in result.verdicts.items()},
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict with its ratio in one object."""
    ratio = {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in asdict(verdict.ratio).items()
    }
    return {"outcome": verdict.outcome, **ratio, "floor": verdict.floor, "reason": verdict.reason}


def _memory(found: Memory | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"blocker": found}
    return asdict(found) | {"growth": found.growth}
