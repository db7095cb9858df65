"""The card, its driver and clocks, and the packages: what a figure means nothing without."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fuselage.engines import host

_QUERY = (
    "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,"
    "temperature.gpu,clocks_throttle_reasons.active,compute_mode,mig.mode.current"
)
_ROOT = Path(__file__).resolve().parents[2]


def machine() -> dict[str, Any]:
    """Nothing is set, only read."""
    here = host.probe()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _said("git", "-C", str(_ROOT), "rev-parse", "HEAD"),
        "system": here.system,
        "python": here.python,
        "cpu": asdict(here.cpu),
        "load_average": here.load_average,
        "driver": here.driver,
        "gpus": [asdict(gpu) for gpu in here.gpus],
        "clocks": clocks(),
        "versions": dict(here.packages),
    }


def clocks() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU now; empty without it."""
    lines = _said("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader")
    names = _QUERY.split(",")
    rows = (line.split(", ") for line in (lines or "").splitlines())
    return [dict(zip(names, row, strict=False)) for row in rows]


def _said(*command: str) -> str | None:
    """Output of a program; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
