"""Damage a bundle in two thousand ways and see that the loader answers or refuses, and no more.

    python benchmarks/fuzz_loader.py [--count 2000] [--seed 0] [--only INDEX ...] [--verbose]

Each case damages a copy of a small sound bundle (`fuzz/damage.py`): any file, the manifest, what
they say, the ONNX models, also behind hashes that were forged to fit. A process of its own then
opens all that a loader reads: bundle, reports, task, tokenizer, canonical graph, engine, pipeline.
A fault is a process that dies or hangs, an error that is not of fuselage, anything printed, and
anything opened outside the bundle's folder. The same seed gives the same damage. Exit code 1 when
there was a fault.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnxruntime
import tokenizers
from fuzz.bundles import TEXTS, write_bundle
from fuzz.damage import Scene, damage
from fuzz.watch import Watch

import fuselage.engines.tensorrt.backend
from fuselage.calibration.table import CALIBRATION_FILE, CalibrationTable
from fuselage.compiler.report import read_report
from fuselage.engines.bundle import Bundle
from fuselage.engines.text.pipeline import text_pipeline
from fuselage.engines.text.task import TASK_FILE, TaskSpec
from fuselage.errors import FuselageError
from fuselage.graph.model import Graph

_IMPORTED = (onnxruntime, tokenizers, fuselage.engines.tensorrt.backend)
"""What loading imports late: here once, and not in each of the processes."""

_SECONDS = 20.0
_MEMORY_BYTES = 4 << 30
_DEEP = 10_000

Step = Callable[[Bundle], object]


def main() -> int:
    """Run, print the tally, and return the exit code."""
    arguments = _arguments()
    tally: collections.Counter[str] = collections.Counter()
    started = time.perf_counter()
    indices = range(arguments.count) if arguments.only is None else arguments.only
    with tempfile.TemporaryDirectory(prefix="fuselage-fuzz-") as name:
        root = Path(name)
        _in_child(lambda: _write_sound(root / "sound"), root / "verdict")
        for index in indices:
            verdict = _case(root, arguments.seed, index)
            tally["fault" if verdict.startswith("fault") else _kind(verdict)] += 1
            if arguments.verbose or verdict.startswith("fault"):
                print(f"{index} {verdict}", flush=True)
    for kind, count in tally.most_common():
        print(f"{count:6d}  {kind}")
    seconds = time.perf_counter() - started
    print(f"{len(indices)} bundles, {tally['fault']} faults, {seconds:.0f} s")
    return 1 if tally["fault"] else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="indices of the cases to run")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def _kind(verdict: str) -> str:
    return verdict.partition(" after ")[0].partition(": ")[0]


def _write_sound(folder: Path) -> str:
    write_bundle(folder)
    return "written"


def _case(root: Path, seed: int, index: int) -> str:
    """Damage a copy and load it: ``answered``, ``refused by ...`` or ``fault ...``."""
    chance = random.Random(f"{seed}/{index}")
    scene = Scene(folder=root / "case" / "bundle", outside=root / "case" / "outside", chance=chance)
    shutil.copytree(root / "sound", scene.folder)
    scene.outside.mkdir()
    (scene.outside / "secret").write_bytes(b"secret")
    sys.setrecursionlimit(_DEEP)  # a forger's
    done = damage(scene)
    sys.setrecursionlimit(1000)
    with Watch(*_forbidden(scene)) as watch:
        verdict = _in_child(lambda: _load(scene.folder, chance), root / "verdict")
        opened = watch.opened()
    shutil.rmtree(root / "case")
    if opened:
        verdict = f"fault: {', '.join(opened)} outside the bundle, {verdict}"
    return f"{verdict} after {done}"


def _forbidden(scene: Scene) -> tuple[Path, ...]:
    inside = (path for path in scene.outside.iterdir() if path.is_dir())
    return (scene.outside, *inside)


def _in_child(work: Callable[[], str], verdict: Path) -> str:
    """Work in a process of its own, which has opened no session before."""
    verdict.write_text("")
    child = os.fork()
    if not child:
        _work_and_leave(work, verdict)
    deadline = time.monotonic() + _SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            name = signal.Signals(-code).name if code < 0 else f"code {code}"
            noise = verdict.with_suffix(".out").read_text(errors="backslashreplace")
            if code:
                return f"fault: dies of {name}"
            return f"fault: prints {noise.strip()}" if noise else verdict.read_text()
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "fault: hangs"
        time.sleep(0.001)


def _work_and_leave(work: Callable[[], str], verdict: Path) -> NoReturn:
    noise = os.open(verdict.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(noise, 1)
    os.dup2(noise, 2)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    try:
        said = work()
    except BaseException:
        said = f"fault: {traceback.format_exc(limit=-4)}"
    try:
        verdict.write_text(said, errors="backslashreplace")
        sys.stdout.flush()
    finally:
        os._exit(0)


def _load(folder: Path, chance: random.Random) -> str:
    """Everything that reads a bundle; each step on its own, as one may refuse and others not."""
    warnings.simplefilter("ignore")
    try:
        bundle = Bundle.open(folder, full=chance.random() < 0.3, trust=chance.random() < 0.9)
    except FuselageError as error:
        return f"refused by open: {type(error).__name__}: {error}"
    refusals = []
    for name, step in _STEPS.items():
        try:
            step(bundle)
        except FuselageError as error:
            refusals.append(f"refused by {name}: {type(error).__name__}: {error}")
    return "; ".join(refusals) or "answered"


def _facts(bundle: Bundle) -> None:
    bundle.blockers()
    for target in bundle.targets:
        bundle.mismatches(target)


def _graph(bundle: Bundle) -> None:
    if bundle.source is not None:
        for value in Graph.load(bundle.source).model.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy().sum()


def _engine(bundle: Bundle) -> None:
    with bundle.engine() as engine:
        shapes = {
            spec.name: tuple(3 if isinstance(dim, str) else dim for dim in spec.dims)
            for spec in engine.inputs
        }
        if all(dim <= 16 for shape in shapes.values() for dim in shape):
            engine.run(
                {
                    spec.name: np.ones(shapes[spec.name], spec.dtype)
                    for spec in engine.inputs
                    if spec.dtype in ("int64", "float32")
                }
            )


def _pipeline(bundle: Bundle) -> None:
    task, tokenizer = TaskSpec.load(bundle.path(TASK_FILE)), bundle.path("tokenizer.json")
    with bundle.engine("ort-cpu") as engine, text_pipeline(engine, tokenizer, task) as answer:
        answer(list(TEXTS))


_STEPS: dict[str, Step] = {
    "facts": _facts,
    "report": read_report,
    "ranges": lambda bundle: CalibrationTable.load(bundle.path(CALIBRATION_FILE)),
    "graph": _graph,
    "engine": _engine,
    "pipeline": _pipeline,
}

if __name__ == "__main__":
    sys.exit(main())
