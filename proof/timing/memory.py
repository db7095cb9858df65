"""Peak memory of a candidate, each in a process of its own.

In one process the second candidate would find the first one's memory freed and ready, and its peak
would look like nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DeviceError, FuselageError
from .entries import Entry

_SECONDS = 600
_CALLS = 3
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory in bytes.

    Attributes:
        start: of a process that has imported Python, numpy and fuselage.
        opened: once the candidate was open.
        peak: the most there was, opening included.
    """

    start: int
    opened: int
    peak: int

    @property
    def growth(self) -> int:
        """What the candidate added at its peak; the packages it imports are part of it."""
        return self.peak - self.start


def peak_memory(entry: Entry, shapes: Sequence[tuple[int, int]]) -> Memory:
    """Open a candidate in a new process and run it.

    Args:
        entry: who.
        shapes: [batch, sequence] of the calls.

    Raises:
        DeviceError: when the process fails, with its last line, or takes 10 minutes.
    """
    order = json.dumps({"entry": entry.as_json(), "shapes": list(shapes)})
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(
            command, input=order, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{entry.name}: took more than {_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise DeviceError(f"{entry.name}: {lines[-1]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def resident() -> tuple[int, int] | None:
    """Resident memory of this process now and at its peak, in bytes; None where unknown."""
    fields = {}
    try:
        for line in _STATUS.read_text().splitlines():
            key, _, value = line.partition(":")
            fields[key] = value.split()
    except OSError:
        return None
    if "VmRSS" not in fields or "VmHWM" not in fields:
        return None
    return int(fields["VmRSS"][0]) * 1024, int(fields["VmHWM"][0]) * 1024


def _measure(order: dict[str, Any]) -> dict[str, int]:
    """What the new process does."""
    from .work import Shape, drawn_work

    before = resident()
    if before is None:
        raise DeviceError("this system does not tell how much memory a process holds")
    candidate = Entry.from_json(order["entry"]).open()
    opened = resident() or before
    for batch, sequence in order["shapes"]:
        call = candidate.call(drawn_work(Shape(batch, sequence), candidate.subject.inputs), "e2e")
        for number in range(_CALLS):
            call(number)
    after = resident() or before
    candidate.close()
    return {"start": before[0], "opened": opened[0], "peak": after[1]}


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(_measure(json.loads(sys.stdin.read()))) + "\n")
    except FuselageError as error:
        sys.exit(str(error))
