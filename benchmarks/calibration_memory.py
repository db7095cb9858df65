"""Time and memory of calibration: many texts must not need more memory than few.

    python benchmarks/calibration_memory.py BUNDLE --text FILE [--texts 500 20000] [--runs 3]

BUNDLE gives the float graph, the tokenizer and the task. Lines of FILE are spliced (the beginning
of one, the end of another) until there are enough different texts. Each number is taken in a
process of its own: how far its resident memory rises, from before the text is read to the peak.
Linux only, for the peak is read from /proc. The exit status is 1 when the last of --texts needs
over 10 % more than the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALLOWED = 1.10


def spliced(lines: list[str], count: int) -> list[str]:
    """At least `count` different texts with the lengths of the given ones."""
    halves = [line.split() for line in lines]
    texts: dict[str, None] = dict.fromkeys(lines)
    for apart in range(1, len(lines)):
        for number, words in enumerate(halves):
            if len(texts) >= count:
                return list(texts)[:count]
            other = halves[(number + apart) % len(halves)]
            texts[" ".join(words[: len(words) // 2] + other[len(other) // 2 :])] = None
    raise SystemExit(f"expected lines that make {count} different texts, got {len(lines)} lines")


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"/proc/self/status has no {field}")


def measure(bundle: Path, text: Path, texts: int, threads: int) -> dict[str, float]:
    """Calibrate once in this process."""
    from fuselage.calibration.run import calibrate
    from fuselage.calibration.text.data import CalibrationSet
    from fuselage.calibration.text.tokenization import tokenize_with
    from fuselage.engines.bundle import SOURCE
    from fuselage.engines.text.encoder import TextEncoder
    from fuselage.engines.text.task import TASK_FILE, TaskSpec
    from fuselage.graph.model import Graph

    graph = Graph.load(bundle / SOURCE)
    graph.digest()  # reads the weights, which are no growth of calibration's
    spec = TaskSpec.load(bundle / TASK_FILE)
    encoder = TextEncoder(bundle / "tokenizer.json", spec)
    import onnxruntime  # noqa: F401  (loading the library is no growth of calibration's)

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = resident("VmRSS"), time.perf_counter()
    data = CalibrationSet.from_files([text], limit=texts)
    table = calibrate(graph, data, tokenize_with(encoder), threads=threads)
    seconds = time.perf_counter() - start
    return {
        "texts": table.texts,
        "tokens": table.tokens,
        "seconds": round(seconds, 2),
        "growth_mb": round(resident("VmHWM") - before, 1),
    }


def child(arguments: argparse.Namespace, text: Path, texts: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, str(arguments.bundle), "--text", str(text)]
    command += ["--threads", str(arguments.threads), "--one", str(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return json.loads(done.stdout)


def main() -> int:
    """Print one line a size, and the ratio of the last to the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--texts", type=int, nargs="+", default=[500, 20000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(
            json.dumps(measure(arguments.bundle, arguments.text, arguments.one, arguments.threads))
        )
        return 0
    lines = list(dict.fromkeys(arguments.text.read_text(encoding="utf-8").splitlines()))
    growths = []
    with tempfile.TemporaryDirectory() as folder:
        for texts in arguments.texts:
            file = Path(folder) / f"{texts}.txt"
            file.write_text("\n".join(spliced(lines, texts)), encoding="utf-8")
            runs = [child(arguments, file, texts) for _ in range(arguments.runs)]
            growth, seconds = (
                statistics.median(run[key] for run in runs) for key in ("growth_mb", "seconds")
            )
            growths.append(growth)
            print(
                f"{texts:>6} texts {runs[0]['tokens']:>8} tokens {seconds:8.1f} s {growth:8.1f} MB"
            )
    ratio = growths[-1] / growths[0]
    print(f"growth with {arguments.texts[-1]} over {arguments.texts[0]} texts: {ratio:.3f}")
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
