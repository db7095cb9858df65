"""Everything that can be measured and checked on a machine with an NVIDIA GPU, in 8 minutes.

    python benchmarks/gpu_check.py [--packages DIR] [--only PART ...] [--out DIR]
    python benchmarks/gpu_check.py --cpu-smoke

No network is needed: a checkout, numpy, and whatever of onnx-ir, onnxruntime-gpu, torch,
cuda-bindings, tensorrt-rtx and tensorrt is installed or lies unpacked in DIR. Each part runs in a
process of its own: one that crashes or hangs costs no other its figures and keeps those it had, and
one whose package is missing is skipped with the reason. numpy and cuda-bindings are enough for the
executor; `ort` and `flavours` need onnx-ir too. Results go to DIR, else into the checkout. Clocks
and other settings of the card are read, never set.

The executor's part needs no TensorRT: plans are pretended and launch kernels of ours, so streams,
events, page-locked memory, CUDA graphs and lanes are real. --cpu-smoke runs every part's code with
a fake GPU and tiny sizes; it says that the code runs, and nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "executor": "the TensorRT executor on real streams",
    "suite": "the tests that need a GPU",
    "floors": "launches, copies, products",
    "ort": "ONNX Runtime on the canonical graph",
    "flavours": "TensorRT packages on this GPU",
    "baselines": "PyTorch on the same encoder",
}
"""In this order: the last ones give way when time is short."""

_BUDGET = 460.0
_LEAST = 20.0


def main() -> int:
    """Run the parts; 1 when one failed or there is no GPU, 0 when all ran or were skipped."""
    arguments = _arguments()
    if arguments.part:
        return _run_part(arguments.part, smoke=arguments.cpu_smoke)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        environment = _environment(Path(scratch), arguments.packages)
        machine = _machine(environment)
        if not machine["gpus"] and not arguments.cpu_smoke:
            print("no NVIDIA GPU answers here, so nothing was measured; --cpu-smoke runs without")
            return 1
        parts = {
            name: _child(name, arguments, environment, _BUDGET - (time.monotonic() - began))
            for name in arguments.only or PARTS
        }
        content = {
            "smoke": arguments.cpu_smoke,
            "seconds": round(time.monotonic() - began, 1),
            "machine": machine,
            "clocks_after": _machine(environment)["clocks"],
            "parts": parts,
        }
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from gpu.results import markdown, write

    if arguments.cpu_smoke and arguments.out is None:
        print(markdown(content))
    else:
        for path in write(arguments.out or ROOT / "benchmarks/results", content):
            print(path)
    for name, part in parts.items():
        print(f"{name:10} {part['status']:8} {part['seconds']:6.1f} s  {part.get('reason', '')}")
    return int(any(part["status"] == "failed" for part in parts.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu-smoke", action="store_true", help="tiny sizes, fake GPU")
    parser.add_argument("--packages", type=Path, help="folder with unpacked packages")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _environment(scratch: Path, packages: Path | None) -> dict[str, str]:
    """Of the children: fuselage importable without being installed, and what was carried along."""
    (scratch / "fuselage").symlink_to(ROOT, target_is_directory=True)
    path = [str(scratch), str(ROOT / "benchmarks")]
    path += [str(packages.resolve())] if packages else []
    path += [item for item in [os.environ.get("PYTHONPATH")] if item]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _child(
    name: str, arguments: argparse.Namespace, environment: dict[str, str], seconds: float
) -> dict[str, Any]:
    if seconds < _LEAST:
        return {"status": "skipped", "reason": "no time is left", "seconds": 0.0}
    print(f"-- {PARTS[name]}", flush=True)
    command = [sys.executable, __file__, "--part", name]
    command += ["--cpu-smoke"] if arguments.cpu_smoke else []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        wrong = _run_group(command, {**environment, "GPU_CHECK_FILE": str(file)}, seconds)
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if wrong or not found:  # the rows before a crash are as good as others
        found |= {"status": "failed", "reason": wrong or "it found nothing"}
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def _run_group(command: list[str], environment: dict[str, str], seconds: float) -> str | None:
    """Run a process and all it starts; None, or what went wrong."""
    with tempfile.TemporaryFile("w+", errors="replace") as words:
        # A group of its own: compilers and tests that a part started must not outlive it.
        child = subprocess.Popen(command, env=environment, stderr=words, start_new_session=True)
        try:
            code = child.wait(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"still at work after {seconds:.0f} s"
            raise
        if not code:
            return None
        words.seek(0)
        last = (words.read().strip().splitlines() or ["nothing"])[-1]
        return f"exit code {code}, last words: {last}"


def _run_part(name: str, *, smoke: bool) -> int:
    """In the child: measure, and write what was found, skipped or wrong."""
    try:
        from gpu.part import REAL, SMOKE, SkipPartError, save

        part = importlib.import_module(f"gpu.{name}")
    except ImportError as error:
        missing = {"status": "skipped", "reason": f"{error.name} is not installed here"}
        Path(os.environ["GPU_CHECK_FILE"]).write_text(json.dumps(missing), encoding="utf-8")
        return 0
    try:
        findings = part.measure(SMOKE if smoke else REAL)
    except SkipPartError as reason:
        save({"status": "skipped", "reason": str(reason)})
        return 0
    save({"status": "ran", **asdict(findings)})
    return 0


def _machine(environment: dict[str, str]) -> dict[str, Any]:
    code = "import json; from gpu.machine import machine; print(json.dumps(machine()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    content: dict[str, Any] = json.loads(done.stdout)
    return content


if __name__ == "__main__":
    sys.exit(main())
