"""A first idea of an engine's latency, for the report; benchmarks/ has the scripts that compare."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from ..engines.base import Engine
from ..graph.tensors import Array, ShapeProfile

_LEAST_RUNS, _MOST_RUNS = 5, 50
_SECONDS = 0.5


def measure_latency(engine: Engine, profile: ShapeProfile) -> list[dict[str, Any]]:
    """Time an engine at its least and its best batch, each at its best sequence.

    Args:
        engine: open; every input is int64 [batch, sequence].
        profile: sizes it was built for.

    Returns:
        One entry a shape: ``batch``, ``sequence``, ``median_ms`` of a call with numpy arrays in
        and out, ``runs``.
    """
    least, best, _ = profile.axes["batch"]
    sequence = profile.axes["sequence"][1]
    return [_measure(engine, batch, sequence) for batch in sorted({least, best})]


def _measure(engine: Engine, batch: int, sequence: int) -> dict[str, Any]:
    ones = np.ones((batch, sequence), np.int64)
    feeds: dict[str, Array] = {
        spec.name: ones * ("token_type" not in spec.name) for spec in engine.inputs
    }
    engine.run(feeds)
    seconds: list[float] = []
    while len(seconds) < _MOST_RUNS and (sum(seconds) < _SECONDS or len(seconds) < _LEAST_RUNS):
        start = time.perf_counter()
        engine.run(feeds)
        seconds.append(time.perf_counter() - start)
    return {
        "batch": batch,
        "sequence": sequence,
        "median_ms": round(statistics.median(seconds) * 1e3, 3),
        "runs": len(seconds),
    }
