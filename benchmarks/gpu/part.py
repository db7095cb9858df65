"""What a part gets and gives."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class SkipPartError(Exception):
    """The part cannot run here; the text says what is missing."""


@dataclass(frozen=True)
class Sizes:
    """How much a part does.

    Attributes:
        smoke: on a CPU: the fake GPU of the tests, ONNX Runtime's CPU provider, tiny sizes.
        hidden: width of the encoder.
        layers: of the encoder.
        batches: rows a call.
        sequence: tokens a row.
        seconds: spent on each figure.
        megabytes: of a copy that measures bandwidth.
        matrix: width of the square product that measures arithmetic.
    """

    smoke: bool
    hidden: int
    layers: int
    batches: tuple[int, ...]
    sequence: int
    seconds: float
    megabytes: int
    matrix: int

    @property
    def heads(self) -> int:
        """Of 64 channels, of 16 in a smoke run."""
        return self.hidden // (16 if self.smoke else 64)


REAL = Sizes(
    smoke=False,
    hidden=768,
    layers=12,
    batches=(1, 8, 32, 128),
    sequence=128,
    seconds=0.6,
    megabytes=256,
    matrix=8192,
)
SMOKE = Sizes(
    smoke=True,
    hidden=32,
    layers=1,
    batches=(1, 2),
    sequence=8,
    seconds=0.02,
    megabytes=1,
    matrix=64,
)


@dataclass
class Findings:
    """What a part found; kept in the file of the part as it comes, should the part not end.

    Attributes:
        rows: figures: each a name, a unit of its own in the keys, JSON values.
        notes: sentences for the reader.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, **figures: Any) -> None:
        """Keep a row; floats keep four digits."""
        rounded = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value
            for key, value in figures.items()
        }
        self.rows.append({"name": name, **rounded})
        print(f"{name:44} {rounded}", flush=True)
        save({"status": "failed", **asdict(self)})


def save(found: dict[str, Any]) -> None:
    """Write what was found so far; the last word counts."""
    if path := os.environ.get("GPU_CHECK_FILE"):
        partial = Path(f"{path}.new")
        partial.write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
        partial.replace(path)


def spread(call: Callable[[], object], sizes: Sizes, least: int = 10) -> dict[str, Any]:
    """Milliseconds of a call that returns when its work is done: p50, p99, how many."""
    for _ in range(3):
        call()
    taken = []
    end = time.perf_counter() + sizes.seconds
    while len(taken) < least or time.perf_counter() < end:
        began = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - began) / 1e6)
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "calls": len(taken)}


def relative_error(got: Any, wanted: Any) -> float:
    """Frobenius norm of the difference over that of what was wanted.

    Raises:
        AssertionError: when it is no number, which no bound would notice.
    """
    expected = np.asarray(wanted, np.float64)
    error = np.linalg.norm(np.asarray(got, np.float64) - expected) / np.linalg.norm(expected)
    if not np.isfinite(error):
        raise AssertionError("the answer is not finite")
    return float(error)
