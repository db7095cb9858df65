"""All engines in one process: interleaved rounds, medians, two threads, no spinning."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from latency import THREADS, feeds, open_plain

from fuselage.engines.base import LoadOptions
from fuselage.engines.ort.backend import OrtBackend
from fuselage.engines.ort.session import Provider, open_session, session_options

PLAIN = "plain fp32"
QUIET = 1.0
"""Load average above which figures are marked as taken on a busy machine."""

_CPU = Provider(name="CPUExecutionProvider", extra="cpu")
_ROUNDS = 15

Inputs = Mapping[str, np.ndarray]
Contender = Callable[[Inputs], Any]


def contender(path: Path, *, skip_norm_fusion: bool) -> Contender:
    """A file as ONNX Runtime opens it, all optimisations on or all but one.

    Args:
        path: ONNX file.
        skip_norm_fusion: False leaves SkipLayerNormFusion out, which is faster for BERT on CPUs.
    """
    if skip_norm_fusion:
        session = open_plain(path)
    else:
        session = open_session(str(path), session_options(THREADS), _CPU, optimize=True)
    names = [spec.name for spec in session.get_inputs()]
    return lambda inputs: session.run(["sentence_embedding"], {n: inputs[n] for n in names})


def engine(folder: Path) -> Contender:
    """An engine of fuselage."""
    return OrtBackend("ort-cpu").load(folder, LoadOptions(threads=THREADS)).run


def heat(
    contenders: Mapping[str, Contender], inputs: Inputs, seconds: float, rounds: int = _ROUNDS
) -> dict[str, Any]:
    """Interleave all of them in random order until the time is up, at least so many rounds.

    Returns:
        For each engine ``ms`` (median), ``ratio`` (median of the ratios to `PLAIN` within a round)
        and its ``quartiles``; the number of ``rounds``; the load average at the start.
    """
    load = os.getloadavg()[0]
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[PLAIN]) < rounds:
        for name in random.sample(sorted(contenders), len(contenders)):
            contenders[name](inputs)  # leaves the caches as this side wants them
            start = time.perf_counter()
            contenders[name](inputs)
            times[name].append(time.perf_counter() - start)
    base = np.array(times[PLAIN])
    engines = {name: _figures(np.array(spent), base) for name, spent in times.items()}
    return {"rounds": len(base), "load_average": load, "engines": engines}


def _figures(spent: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    ratios = spent / base
    return {
        "ms": round(float(np.median(spent)) * 1e3, 3),
        "ratio": round(float(np.median(ratios)), 3),
        "quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
    }


def race(
    contenders: Mapping[str, Contender], shapes: Sequence[tuple[int, int]], seconds: float
) -> dict[str, Any]:
    """Every shape in turn."""
    random.seed(0)
    found = {f"{b}x{s}": heat(contenders, feeds(b, s), seconds) for b, s in shapes}
    busiest = max(result["load_average"] for result in found.values())
    return {"threads": THREADS, "shapes": found, "load_average": busiest}
