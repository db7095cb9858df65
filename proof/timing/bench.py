"""The whole of a benchmark: open all candidates, race them, look at the machine, judge."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from ...engines import host
from ...engines.text.encoder import TruncationWarning
from ...errors import DeviceError, FuselageError
from .agreement import agreement_notes
from .business import Business, business, counters
from .candidates import Candidate
from .clock import Clock, SystemClock
from .energy import Meter
from .entries import Entry, make_entries
from .figures import figures
from .machine import machine
from .memory import Memory, peak_memory
from .planning import Plan, plan
from .race import race, round_times
from .request import Request
from .results import Benchmark, WorkResult
from .turns import Call, Turn
from .verdict import judge
from .work import Work, parse_shapes

_GLANCE = 0.5
"""Seconds for which the machine is watched before anything is opened."""

Told = Callable[[str], None]


def run_bench(request: Request, told: Told = lambda _: None) -> Benchmark:
    """Measure.

    Args:
        request: what.
        told: is told what is being done.

    Raises:
        DeviceError: when the machine is busy, unless ``request.anyway``.
        FeedError: when a candidate does not take a shape; it is named.
        FuselageError: as opening the subjects does.
    """
    parse_shapes(request.shapes)  # what is misspelled is told on a busy machine too
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # a note says it once
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fuselage-bench-"))
        entries = make_entries(
            request.subjects, request.baselines, _template(request, folder), request.model
        )
        _refuse_busy(_glance(), request)
        candidates, skipped = _opened(entries, stack, told)
        planned = plan(request, candidates)
        calls = _prepared(request, candidates, planned, skipped, told)
        racing = [candidate for candidate in candidates if candidate.name not in skipped]
        notes = () if request.mode == "pipeline" else agreement_notes(racing, planned.works)
        memory = _memory(entries, skipped, planned, told) if request.memory else {}
        environment = machine(request.threads or host.physical_cores())
        before = counters()
        results = []
        for work in planned.works:
            told(f"timing {work.name}")
            results.append(race_work(calls[work.name], work, request, SystemClock()))
        during = business(before, counters())
        _refuse_busy(during, request)
        if during.is_busy:
            results = [replace(result, verdicts={}) for result in results]
        return Benchmark(
            request=request,
            subjects={entry.name: entry.described for entry in entries},
            precisions={c.name: c.subject.precision for c in racing},
            environment=environment | {"load_average_after": host.load_average()},
            business=during,
            results=tuple(results),
            memory=memory,
            skipped=skipped,
            notes=(
                *notes,
                *planned.notes,
                *(f"{c.name}: {note}" for c in racing for note in c.subject.notes),
            ),
            energy_blocker=Meter.open().blocker,
            texts=planned.source,
        )


def race_work(calls: Mapping[str, Call], work: Work, request: Request, clock: Clock) -> WorkResult:
    """Race candidates on one piece of work and judge them.

    Args:
        calls: candidate -> its calls; the first is the reference.
        work: what they answer.
        request: how.
        clock: to read.
    """
    load = request.load()
    turns = race(calls, clock, request.rules, load, inputs=len(work.inputs), meter=Meter.open())
    rounds = {name: round_times(series, load) for name, series in turns.items()}
    first, *others = rounds
    return WorkResult(
        work=work,
        figures={name: figures(turns[name], work, rounds[name]) for name in turns},
        joules={name: _joules(series) for name, series in turns.items()},
        verdicts={name: judge(rounds[name], rounds[first], request.floor) for name in others},
        turns=turns,
    )


def _template(request: Request, folder: str) -> Entry:
    return Entry(
        name="",
        form="",
        threads=request.threads,
        task=request.task,
        trust=request.trust,
        folder=folder,
    )


def _opened(
    entries: Sequence[Entry], stack: ExitStack, told: Told
) -> tuple[list[Candidate], dict[str, str]]:
    """Open all; a baseline that does not run here is skipped."""
    candidates: list[Candidate] = []
    skipped: dict[str, str] = {}
    for entry in entries:
        told(f"opening {entry.name}")
        try:
            candidate = entry.open()
        except FuselageError as error:
            if entry.model is None:
                raise
            skipped[entry.name] = str(error)
        else:
            stack.callback(candidate.close)
            candidates.append(candidate)
    return candidates, skipped


def _prepared(
    request: Request,
    candidates: Sequence[Candidate],
    planned: Plan,
    skipped: dict[str, str],
    told: Told,
) -> dict[str, dict[str, Call]]:
    """Work -> candidate -> its calls, each made once; a baseline that fails is skipped."""
    found: dict[str, dict[str, Call]] = {work.name: {} for work in planned.works}
    for candidate in candidates:
        told(f"first calls of {candidate.name}")
        try:
            calls = {
                work.name: candidate.call(
                    work, request.mode, planned.reader, is_alone=request.is_alone
                )
                for work in planned.works
            }
        except FuselageError as error:
            if not candidate.is_baseline:
                raise
            skipped[candidate.name] = str(error)
        else:
            for name, call in calls.items():
                found[name][candidate.name] = call
    return found


def _memory(
    entries: Sequence[Entry], skipped: Mapping[str, str], planned: Plan, told: Told
) -> dict[str, Memory | str]:
    shapes = [work.largest for work in planned.works]
    found: dict[str, Memory | str] = {}
    for entry in entries:
        if entry.name in skipped:
            continue
        told(f"measuring the memory of {entry.name}")
        try:
            found[entry.name] = peak_memory(entry, shapes)
        except FuselageError as error:
            found[entry.name] = str(error)
    return found


def _joules(turns: Sequence[Turn]) -> float | None:
    known = [turn.joules for turn in turns if turn.joules is not None]
    return sum(known) if len(known) == len(turns) else None


def _glance() -> Business:
    """What others do while we do nothing."""
    before = counters()
    time.sleep(_GLANCE)
    return business(before, counters())


def _refuse_busy(found: Business, request: Request) -> None:
    if found.is_busy and not request.anyway:
        raise DeviceError(
            f"this machine is too busy to conclude anything: {found.reason}; wait until it is "
            "quiet, or take figures without a verdict with --anyway"
        )
