"""Seconds from a new process to the first vector, and the peak memory of a build.

    python benchmarks/cold_start.py [--bundle DIR] [--runs 9] [--build-memory]

Every run is a new interpreter that imports fuselage, opens the bundle (hashes included), loads the
engine and embeds one text. The median and the range are printed with the machine's load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fuselage

_ANSWER = "import fuselage; fuselage.pipeline({bundle!r}, target='ort-cpu')(['a text'])"


def cold_start(bundle: Path, runs: int) -> list[float]:
    """Wall-clock seconds of each run, the start of the interpreter included."""
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", _ANSWER.format(bundle=str(bundle))], check=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def build_memory() -> tuple[int, int]:
    """Peak resident bytes of a build of MiniLM with all targets, and the bytes of its weights."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fuselage", "build", "minilm", "--quiet", "--json"]
        done = subprocess.run(
            [*command, "--out", f"{folder}/bundle"], check=True, capture_output=True, text=True
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return peak, json.loads(done.stdout.splitlines()[-1])["model"]["weight_bytes"]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("build/minilm"))
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--build-memory", action="store_true")
    arguments = parser.parse_args()
    if not arguments.bundle.exists():
        fuselage.build("minilm", out=arguments.bundle)
    load = os.getloadavg()[0]
    seconds = cold_start(arguments.bundle, arguments.runs)
    print(
        f"cold start: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to "
        f"{max(seconds):.2f} s in {len(seconds)} runs, load average {load:.2f} at the start"
    )
    if arguments.build_memory:
        peak, weights = build_memory()
        limit = 4 * weights + 1_500_000_000
        print(f"build: peak {peak / 1e6:.0f} MB, weights {weights / 1e6:.0f} MB, {limit=}")


if __name__ == "__main__":
    main()
