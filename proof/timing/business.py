"""Whether others used this machine meanwhile: measured, because a load average tells a minute ago.

The kernel counts the CPU time of every processor. What is neither idle nor ours is that of others:
other processes, interrupts, and time that a hypervisor gave to another guest (steal). Others on
cores that nobody asked for do no harm on a large machine, so what counts too is how long our own
threads waited for a core.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MOST_OTHERS = 0.10
"""Share of the CPU time of our processors that others may have."""

MOST_STOLEN = 0.02
"""Share that a hypervisor may give to other guests."""

MOST_WAITING = 0.02
"""Our threads' waiting for a core through their time on one, up to which others do no harm."""

_TICK = 1e9 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1e7
_USER, _NICE, _SYSTEM, _IDLE, _IOWAIT, _IRQ, _SOFTIRQ, _STEAL = range(8)
_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What the kernel has counted so far, in nanoseconds.

    Attributes:
        moment: when it was read.
        busy: time of our processors that was not idle, steal included; None where the system keeps
            no such count.
        stolen: time that a hypervisor took.
        own: CPU time of this process and its children.
        waited: time that our threads were ready and had no core; None where it is not counted.
        preempted: involuntary context switches of this process.
    """

    moment: int
    busy: int | None
    stolen: int
    own: int
    waited: int | None
    preempted: int


@dataclass(frozen=True, kw_only=True)
class Business:
    """What others did while we measured.

    Attributes:
        seconds: observed.
        processors: that this process may use.
        others: share of their time that others had; None where it cannot be known.
        stolen: share that a hypervisor took.
        waiting: our threads' waiting for a core through their time on one; None if unknown.
        preempted: involuntary context switches a second.
        reason: why nothing can be concluded; empty on a quiet machine.
    """

    seconds: float
    processors: int
    others: float | None
    stolen: float
    waiting: float | None
    preempted: float
    reason: str

    @property
    def is_busy(self) -> bool:
        """Whether nothing can be concluded."""
        return bool(self.reason)


def counters(root: Path = _ROOT) -> Counters:
    """Read what the kernel counted."""
    allowed = _allowed()
    lines = _lines(root / "proc/stat")
    rows = [_processor(line) for line in lines if line[:3] == "cpu" and line[3:4].isdigit()]
    ours = [ticks for index, ticks in rows if not allowed or index in allowed]
    busy = sum(sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT] for ticks in ours)
    times = os.times()
    return Counters(
        moment=time.perf_counter_ns(),
        busy=int(busy * _TICK) if ours and busy else None,
        stolen=int(sum(ticks[_STEAL] for ticks in ours) * _TICK),
        own=int((times.user + times.system + times.children_user + times.children_system) * 1e9),
        waited=_waited(root),
        preempted=_preempted(),
    )


def business(before: Counters, after: Counters) -> Business:
    """What others did between two readings."""
    elapsed = max(1, after.moment - before.moment)
    processors = max(1, len(_allowed()) or os.cpu_count() or 1)
    capacity = elapsed * processors
    own = after.own - before.own
    others = stolen = 0.0
    known = before.busy is not None and after.busy is not None
    if before.busy is not None and after.busy is not None:
        others = max(0.0, (after.busy - before.busy - own) / capacity)
        stolen = (after.stolen - before.stolen) / capacity
    waiting = None
    if before.waited is not None and after.waited is not None and own > 0:
        waiting = max(0, after.waited - before.waited) / own
    return Business(
        seconds=elapsed / 1e9,
        processors=processors,
        others=others if known else None,
        stolen=stolen,
        waiting=waiting,
        preempted=(after.preempted - before.preempted) / elapsed * 1e9,
        reason=_reason(others, stolen, waiting, processors),
    )


def _reason(others: float, stolen: float, waiting: float | None, processors: int) -> str:
    if stolen > MOST_STOLEN:
        return (
            f"the hypervisor gave {stolen:.0%} of the time of our {processors} processors to other "
            f"guests, more than {MOST_STOLEN:.0%}"
        )
    if others <= MOST_OTHERS or (waiting is not None and waiting <= MOST_WAITING):
        return ""
    waited = (
        ""
        if waiting is None
        else f", and our threads waited {waiting:.2f} s for each second they ran"
    )
    return (
        f"others used {others:.0%} of the time of our {processors} processors, more than "
        f"{MOST_OTHERS:.0%}{waited}"
    )


def _processor(line: str) -> tuple[int, list[int]]:
    name, *ticks = line.split()
    return int(name[3:]), [*map(int, ticks[:8]), *[0] * max(0, 8 - len(ticks))]


def _waited(root: Path) -> int | None:
    """Run-queue delay of all our threads: the second number of schedstat."""
    total, seen = 0, False
    for path in (root / "proc/self/task").glob("*/schedstat"):
        fields = " ".join(_lines(path)).split()
        if len(fields) >= 2 and fields[1].isdecimal():
            total, seen = total + int(fields[1]), True
    return total if seen else None


def _preempted() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
