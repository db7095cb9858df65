"""Times of calls as ``trtexec --exportTimes`` writes them, for the tools that read those."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..writing import whole_file
from .results import Benchmark, WorkResult


def trtexec_times(result: WorkResult, name: str) -> list[dict[str, float]]:
    """One entry a timed call, in milliseconds from the start of the first.

    A call is one span here: enqueueing and copying are part of what is timed as compute, so their
    own spans are empty. Under open load a call starts when it should have been sent.
    """
    turns = result.turns[name]
    begun = min(int(turn.starts[0]) for turn in turns)
    return [
        _entry((int(start) - begun) / 1e6, int(latency) / 1e6)
        for turn in turns
        for start, latency in zip(turn.starts, turn.latencies, strict=True)
    ]


def _entry(start: float, took: float) -> dict[str, float]:
    end = start + took
    entry = {
        "startEnqMs": start,
        "endEnqMs": start,
        "startH2dMs": start,
        "endH2dMs": start,
        "startComputeMs": start,
        "endComputeMs": end,
        "startD2hMs": end,
        "endD2hMs": end,
        "h2dMs": 0.0,
        "computeMs": took,
        "d2hMs": 0.0,
        "latencyMs": took,
    }
    return {key: round(value, 6) for key, value in entry.items()}


def times_files(benchmark: Benchmark, path: Path) -> dict[Path, list[dict[str, float]]]:
    """What to write where: one file for one candidate and one piece of work, else one for each.

    Several are named ``STEM.CANDIDATE.WORK.json``.
    """
    pairs = [(result, name) for result in benchmark.results for name in result.figures]
    if len(pairs) == 1:
        return {path: trtexec_times(*pairs[0])}
    return {
        path.with_name(f"{path.stem}.{_plain(name)}.{_plain(result.work.name)}{path.suffix}"):
        trtexec_times(result, name)
        for result, name in pairs
    }  # fmt: skip


def write_times(path: Path, entries: list[dict[str, float]]) -> None:
    """Write one entry a line, as trtexec does.

    Raises:
        FuselageError: when the file cannot be written.
    """
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    with whole_file(path) as file:
        file.write(f"[\n{lines}\n]\n".encode())


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
