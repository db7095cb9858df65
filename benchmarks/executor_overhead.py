"""What the TensorRT executor adds to a call, over the backend, in microseconds at batch 1.

    python benchmarks/executor_overhead.py [--calls 5000] [--out FILE.json]

The executor runs on the fake GPU of the tests, which counts the time spent inside CUDA's and
TensorRT's functions; the rest of a call is what fuselage adds: checking feeds, getting a slot,
staging, binding, copying answers out. It says nothing about a GPU, on which none of this has run.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_TESTS = Path(__file__).resolve().parent.parent / "tests/engines/tensorrt"
_WARM_UP = 100


def load(name: str) -> ModuleType:
    """A module or package of the tests, by path."""
    path = _TESTS / name
    folder = [str(path)] if path.is_dir() else None
    path = path / "__init__.py" if folder else path.with_suffix(".py")
    spec = importlib.util.spec_from_file_location(
        f"tests_{name}", path, submodule_search_locations=folder
    )
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def measure(rig: Any, calls: int, **options: Any) -> dict[str, float]:
    """Percentiles of the microseconds a call spends outside the backend."""
    feeds = rig.feeds(1, 64)
    added = np.empty(calls)
    with rig.open(**options) as engine:
        for _ in range(_WARM_UP):
            engine.run(feeds)
        gc.disable()
        for call in range(calls):
            rig.cuda.inside_ns = 0
            start = time.perf_counter_ns()
            engine.run(feeds)
            added[call] = time.perf_counter_ns() - start - rig.cuda.inside_ns
        gc.enable()
    found = np.percentile(added / 1000, [10, 50, 90])
    return dict(zip(("p10", "median", "p90"), found.round(1).tolist(), strict=True))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    fakes, rigs = load("fake"), load("rig")
    rows = {
        "graph launch": {},
        "enqueue": {"graphs": 0},
        "padded to a bucket, graph launch": {"buckets": {"batch": (4, 64)}},
    }
    found = {
        name: measure(rigs.Rig(fakes, "tensorrt-11.4.0.106"), arguments.calls, **options)
        for name, options in rows.items()
    }
    for name, row in found.items():
        print(f"{name:34} {row['median']:6.1f} us  (p10 {row['p10']:.1f}, p90 {row['p90']:.1f})")
    print(f"batch 1, two int64 inputs of 64 tokens; load {os.getloadavg()[0]:.1f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
