"""The machine that figures were taken on: without it they mean nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...compiler.report import environment
from .nvml import nvidia_state

_ROOT = Path("/")


def machine(threads: int) -> dict[str, Any]:
    """Everything that is known now, for the head of a document.

    Args:
        threads: CPU threads of the candidates.

    Returns:
        ``date``, ``system``, ``python``, ``cpu`` (model, arch, flags, physical cores allowed),
        ``threads``, ``affinity``, ``governor`` and ``clocks_mhz`` (None where the system does not
        tell), ``load_average``, ``driver``, ``gpus``, ``gpu_state`` (clocks, power, throttling;
        empty without NVML) and ``versions``.
    """
    return environment() | {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": threads,
        "affinity": affinity(),
        "governor": governor(),
        "clocks_mhz": clocks(),
        "gpu_state": nvidia_state(),
    }


def affinity() -> list[int] | None:
    """Processors that this process may use; None where it may use all."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else None


def governor(root: Path = _ROOT) -> str | None:
    """Who chooses the clock of the processors, for example ``performance``; None if unknown."""
    folder = root / "sys/devices/system/cpu"
    found = {_read(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    return ", ".join(sorted(found)) or None


def clocks(root: Path = _ROOT) -> dict[str, float] | None:
    """Least and greatest clock of the processors now, in MHz."""
    folder = root / "sys/devices/system/cpu"
    kilohertz = [_read(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
    found = [int(text) / 1000 for text in kilohertz if text.isdecimal()]
    if not found:
        lines = _read(root / "proc/cpuinfo").splitlines()
        fields = [line.partition(":")[2] for line in lines if line.startswith("cpu MHz")]
        found = [float(text) for text in fields if text.strip().replace(".", "", 1).isdecimal()]
    return {"min": min(found), "max": max(found)} if found else None


def head_lines(head: Mapping[str, Any]) -> list[str]:
    """What a person needs of it."""
    cpu, clock = head["cpu"], head["clocks_mhz"]
    known = f"{clock['min']:.0f} to {clock['max']:.0f} MHz" if clock else "clocks unknown"
    load = "unknown" if head["load_average"] is None else f"{head['load_average']:.2f}"
    lines = [
        f"{cpu['model'] or cpu['arch']}, {cpu['physical_cores']} cores allowed, {head['threads']} "
        f"threads, {known}, governor {head['governor'] or 'unknown'}, load {load}"
    ]
    lines += [f"{gpu['name']}, driver {head['driver']}" for gpu in head["gpus"]]
    lines += [
        ", ".join(f"{key} {value}" for key, value in gpu.items()) for gpu in head["gpu_state"]
    ]
    shown = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "torch", "numpy")
    versions = [f"{name} {head['versions'][name]}" for name in shown if name in head["versions"]]
    return [*lines, ", ".join(versions)]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
