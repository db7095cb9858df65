"""A benchmark in words and rows, for the terminal."""

from __future__ import annotations

from .results import Benchmark, WorkResult
from .verdict import Verdict

COLUMNS = (
    "candidate",
    "p50 ms",
    "p90",
    "p95",
    "p99",
    "min",
    "mean",
    "max",
    "CV",
    "seq/s",
    "tokens/s",
    "calls",
)
VERDICTS = ("work", "verdict")
RESOURCES = ("candidate", "work", "CPU s / 1,000", "J / 1,000", "peak MiB", "growth MiB")

_SATURATED = 0.9
"""Occupancy of the clients from which calls are said to come faster than they are answered."""

_MIB = 1 << 20


def verdict_rows(found: Benchmark) -> list[tuple[str, str]]:
    """A row a comparison; on a busy machine one that says that there is none."""
    if found.business.is_busy:
        return [("all", f"none: {found.business.reason}")]
    rows = [
        (result.work.name, verdict_line(name, found.reference, verdict))
        for result in found.results
        for name, verdict in result.verdicts.items()
    ]
    return rows or [("all", f"none: {found.reference} alone was timed")]


def verdict_line(name: str, reference: str, verdict: Verdict) -> str:
    """What a verdict says, with its interval."""
    ratio = verdict.ratio
    if verdict.outcome == "no difference":
        return f"no difference between {name} and {reference}: {verdict.reason}"
    speed, low, high = ratio.ratio, ratio.low, ratio.high
    if verdict.outcome == "faster":
        speed, low, high = 1 / speed, 1 / high, 1 / low
    return (
        f"{name} is {speed:.2f} times as {'fast' if verdict.outcome == 'faster' else 'slow'} as "
        f"{reference} ({ratio.confidence:.0%} interval {low:.2f} to {high:.2f}, "
        f"{ratio.rounds} rounds)"
    )


def candidate_rows(result: WorkResult) -> list[tuple[object, ...]]:
    """A row of latencies in milliseconds a candidate, in the order of `COLUMNS`."""
    rows: list[tuple[object, ...]] = []
    for name, found in result.figures.items():
        percentiles = [f"{found.percentiles_ms[key]:.2f}" for key in ("p50", "p90", "p95", "p99")]
        spread = [f"{value:.2f}" for value in (found.min_ms, found.mean_ms, found.max_ms)]
        rates = f"{found.sequences_per_second:,.1f}", f"{found.tokens_per_second:,.0f}"
        rows.append((name, *percentiles, *spread, f"{found.variation:.1%}", *rates, found.calls))
    return rows


def resource_rows(found: Benchmark) -> list[tuple[object, ...]]:
    """A row of memory, CPU time and energy a candidate and work, in the order of `RESOURCES`."""
    rows: list[tuple[object, ...]] = []
    for result in found.results:
        for name, figures in result.figures.items():
            joules = result.joules_per_1000(name)
            memory = found.memory.get(name)
            known = None if memory is None or isinstance(memory, str) else memory
            rows.append(
                (
                    name,
                    result.work.name,
                    f"{figures.cpu_seconds_per_1000:.2f}",
                    None if joules is None else f"{joules:.1f}",
                    None if known is None else f"{known.peak / _MIB:.0f}",
                    None if known is None else f"{known.growth / _MIB:.0f}",
                )
            )
    return rows


def busy_line(found: Benchmark) -> str:
    """What others did meanwhile, and how energy was measured."""
    during = found.business
    others = "an unknown share" if during.others is None else f"{during.others:.1%}"
    energy = f"; energy not available: {found.energy_blocker}" if found.energy_blocker else ""
    return (
        f"during {during.seconds:.0f} s others used {others} of {during.processors} processors, "
        f"{during.preempted:.0f} involuntary switches a second{energy}"
    )


def saturation_lines(found: Benchmark) -> list[str]:
    """Under open load, who could not keep up: its latencies grow with the length of the turn."""
    if found.request.rate is None:
        return []
    return [
        f"{result.work.name}: {name} is saturated at {found.request.rate:g} calls a second: its "
        f"{found.request.clients} clients waited {figures.occupancy:.0%} of the time"
        for result in found.results
        for name, figures in result.figures.items()
        if figures.occupancy >= _SATURATED
    ]
