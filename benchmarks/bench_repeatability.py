"""How far `fuselage bench` repeats itself: the ratio of a pair, and verdicts on equals.

    python benchmarks/bench_repeatability.py [--pair FP32 INT8] [--shape 1x128] [--json FILE]

Every run is a process of its own, as a user starts it, three seconds for each candidate: 5 of the
pair, and 20 of the first bundle against itself. About five minutes. Runs on a busy machine are
counted and judged all the same, so that the figures of a noisy machine can be seen too; on a quiet
one the ratio of the pair stays within 3 percent of its median, and at least 19 of 20 equals are
called "no difference".
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from fuselage.proof.timing.verdict import Verdict, judge

PAIR_RUNS, EQUAL_RUNS = 5, 20
SPREAD, AGREED = 0.03, 0.95


def document(bundles: tuple[Path, Path], shape: str, seconds: float) -> dict[str, Any]:
    """What one process of `fuselage bench` finds."""
    command = [sys.executable, "-m", "fuselage", "bench", *map(str, bundles), "--shapes", shape]
    command += ["--seconds", str(seconds), "--no-memory", "--anyway", "--quiet", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def verdict(found: dict[str, Any]) -> Verdict:
    """The verdict on the second candidate, on a busy machine too."""
    first, second = (
        candidate["rounds_ms"] for candidate in found["works"][0]["candidates"].values()
    )
    return judge(second, first, found["rules"]["floor"])


def repeat(
    bundles: tuple[Path, Path], runs: int, shape: str, seconds: float, name: str
) -> list[dict[str, Any]]:
    """Run and show each."""
    rows = []
    for run in range(runs):
        found = document(bundles, shape, seconds)
        said = verdict(found)
        others = found["environment"]["business"]["others"]
        rows.append(
            {
                "ratio": round(said.ratio.ratio, 4),
                "low": round(said.ratio.low, 4),
                "high": round(said.ratio.high, 4),
                "outcome": said.outcome,
                "rounds": said.ratio.rounds,
                "concluded": found["concluded"],
                "others": None if others is None else round(others, 3),
            }
        )
        row = rows[-1]
        print(
            f"{name} {run + 1:2d}: {row['ratio']:.4f} ({row['low']:.4f} to {row['high']:.4f}), "
            f"{row['outcome']}, others {row['others']}{'' if row['concluded'] else ', busy'}",
            flush=True,
        )
    return rows


def main() -> None:
    """Print both figures; exit with 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bundles = Path("build/minilm"), Path("build/minilm-int8")
    parser.add_argument("--pair", type=Path, nargs=2, default=bundles)
    parser.add_argument("--shape", default="1x128")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each candidate")
    parser.add_argument("--runs", type=int, nargs=2, default=(PAIR_RUNS, EQUAL_RUNS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    first, second = arguments.pair
    shape, seconds = arguments.shape, arguments.seconds
    pair = repeat((first, second), arguments.runs[0], shape, seconds, "pair  ")
    equals = repeat((first, first), arguments.runs[1], shape, seconds, "equals")

    ratios = [row["ratio"] for row in pair]
    middle = statistics.median(ratios)
    spread = max(abs(ratio / middle - 1) for ratio in ratios)
    agreed = sum(row["outcome"] == "no difference" for row in equals)
    busy = sum(not row["concluded"] for row in (*pair, *equals))
    print(f"ratio of the pair: {middle:.4f}, farthest run {spread:.2%} away (at most {SPREAD:.0%})")
    print(f"equals called no difference: {agreed} of {len(equals)} (at least {AGREED:.0%})")
    print(f"runs on a busy machine, whose verdict the command withholds: {busy}")
    if arguments.json:
        result = {
            "pair": pair,
            "equals": equals,
            "spread": round(spread, 4),
            "no_difference": agreed,
            "busy": busy,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(spread > SPREAD or agreed < AGREED * len(equals))


if __name__ == "__main__":
    main()
