"""Builds in processes that are forked with everything imported: raced, and killed.

python build_driver.py race|kill MODEL FOLDER
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuselage.compiler import latency, pipeline
from fuselage.compiler.exporting import export
from fuselage.compiler.recipe import Request
from fuselage.compiler.stages import build, engine  # noqa: F401 (imported before the fork)
from fuselage.engines.bundle import Bundle
from fuselage.errors import BundleError

TRIALS = 20


def main(action: str, model: str, folder: Path) -> None:
    log = folder / "calls.txt"
    latency._SECONDS = 0.0
    _log_calls(log)

    def make(out: str) -> None:
        request = Request(
            model=model, out=folder / out, precision="fp32", targets=("ort-cpu",), threads=1,
            verify="off",
            shapes=("batch=1:2:4,sequence=1:8:32",),
        )  # fmt: skip
        pipeline.run_build(request, force=False)

    if action == "race":
        codes = [_wait(child) for child in [_fork(make, name) for name in ("one", "two")]]
        answer: dict[str, Any] = {"codes": codes}
    else:
        answer = {"kills": _kills(make, folder)}
    calls = log.read_text().split() if log.exists() else []
    sys.stdout.write(json.dumps({**answer, "calls": calls}))


def _kills(make: Callable[[str], None], folder: Path) -> list[dict[str, Any]]:
    """Kill builds at random moments; every second one begins without a cache and a bundle."""
    started = time.monotonic()
    _wait(_fork(make, "out"))
    whole = time.monotonic() - started
    chance = random.Random(20)
    cache = Path(os.environ["FUSELAGE_CACHE"])
    trials = []
    for number in range(TRIALS):
        if number % 2 == 0:
            shutil.rmtree(cache, ignore_errors=True)
        had = number % 4 < 2
        if not had:
            shutil.rmtree(folder / "out", ignore_errors=True)
        elif (folder / "out" / "manifest.json").exists():
            _age(folder / "out")
        before = _state(folder / "out")
        child = _fork(make, "out")
        time.sleep(chance.uniform(0.0, 0.9 * whole))
        os.kill(child, signal.SIGKILL)
        code = _wait(child)
        trials.append({"code": code, "before": before, "after": _state(folder / "out")})
    trials.append({"code": _wait(_fork(make, "out")), "after": _state(folder / "out")})
    return trials


def _age(out: Path) -> None:
    """Make the bundle one of another recipe, so that it is built again."""
    from fuselage.engines.manifest import Manifest

    manifest = Manifest.from_json((out / "manifest.json").read_text())
    aged = Manifest(**{**vars(manifest), "recipe": {**manifest.recipe, "aged": True}})
    (out / "manifest.json").write_text(aged.to_json())


def _state(out: Path) -> str:
    """Digest of the recipe of a bundle every file of which is sound; a word where there is none."""
    if not out.exists():
        return "none"
    try:
        return Bundle.open(out, full=True).manifest.recipe_digest
    except BundleError as error:
        return f"broken: {error}"


def _fork(make: Callable[[str], None], out: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        make(out)
        code = 0
    finally:
        os._exit(code)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _log_calls(log: Path) -> None:
    def note(name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    exporter, backend = export.export, engine.backend

    def logged_export(*args: Any, **kwargs: Any) -> Any:
        note("export")
        return exporter(*args, **kwargs)

    def logged_backend(target: str) -> Any:
        found = backend(target)
        builder = found.build

        def logged_build(*args: Any) -> Any:
            note("build")
            return builder(*args)

        found.build = logged_build  # type: ignore[method-assign]
        return found

    export.export = logged_export  # type: ignore[assignment]
    engine.backend = logged_backend


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
