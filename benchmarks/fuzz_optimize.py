"""Feed ``fuselage optimize`` a thousand damaged models and hold it to what it promises.

    python benchmarks/fuzz_optimize.py [--count 1000] [--seed 0] [--keep DIR] [FILE.onnx ...]

Small sound models (`fuzz/seeds.py`, and any files named) are damaged at bytes and at structure
(`fuzz/mutations.py`), optimised in worker processes under limits of time and memory, and judged
(`fuzz/judge.py`). A worker that dies is a fault of what it was doing. The same seed gives the same
files on every machine. Exit code 1 when there was a fault; the files go to ``--keep``.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzz.mutations import mutate
from fuzz.seeds import SEEDS, all_seeds

_SECONDS = 30.0
"""Longest time for one file: the slowest sound one takes 1.5 s on a busy core."""

_START_SECONDS = 60.0
"""What a worker may take to import everything on a busy machine."""

_MEMORY_BYTES = 6 << 30

_OPTIONS = (
    (),
    ("--target", "ort-cpu"),
    ("--verify", "each"),
    ("--verify", "off"),  # what the passes do when nobody looks
)


@dataclass(frozen=True)
class Case:
    """One damaged file.

    Attributes:
        seed: of the run.
        index: of the file in the run.
        model: name of the model it started from.
    """

    seed: int
    index: int
    model: str

    def make(self, models: dict[str, bytes]) -> tuple[str, bytes, tuple[str, ...]]:
        """What was done, the bytes, and the options to optimise with."""
        rng = random.Random(f"{self.seed}/{self.index}/{self.model}")
        done, content = mutate(models[self.model], rng)
        return done, content, rng.choice(_OPTIONS)


def main() -> int:
    """Run, print the tally, and return the exit code."""
    arguments = _arguments()
    if arguments.worker:
        return _work(tuple(arguments.files))
    cases = _cases(arguments)
    started = time.perf_counter()
    tally: collections.Counter[str] = collections.Counter()
    faults: list[tuple[Case, str, str]] = []
    with Workers(tuple(arguments.files)) as workers:
        for case in cases:
            done, verdict = workers.run(case)
            tally[_kind(verdict)] += 1
            if arguments.verbose:
                print(f"{case.index} {case.model} {done}: {verdict}", flush=True)
            if verdict.startswith("fault"):
                faults.append((case, done, verdict))
                print(f"{case.index} {case.model} {done}: {verdict}", flush=True)
    if arguments.keep is not None:
        _keep(faults, tuple(arguments.files), arguments.keep)
    for kind, count in tally.most_common():
        print(f"{count:6d}  {kind}")
    seconds = time.perf_counter() - started
    print(f"{len(cases)} files, {len(faults)} faults, {seconds:.0f} s")
    return 1 if faults else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="further models to start from")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="indices of the files to run")
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _cases(arguments: argparse.Namespace) -> list[Case]:
    names = [*SEEDS, *(path.stem for path in arguments.files)]
    cases = [
        Case(arguments.seed, index, names[index % len(names)]) for index in range(arguments.count)
    ]
    return [case for case in cases if arguments.only is None or case.index in arguments.only]


def _kind(verdict: str) -> str:
    return ":".join(verdict.split(":")[:2])[:60] if verdict.startswith("ok") else "fault"


def _keep(faults: list[tuple[Case, str, str]], files: tuple[Path, ...], folder: Path) -> None:
    models = dict(all_seeds(files))
    folder.mkdir(parents=True, exist_ok=True)
    for case, _, verdict in faults:
        _, content, _ = case.make(models)
        stem = f"{case.seed}.{case.index}.{case.model}"
        (folder / f"{stem}.onnx").write_bytes(content)
        (folder / f"{stem}.txt").write_text(verdict)


class Workers:
    """One worker process, replaced when it dies or hangs."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._command = [sys.executable, __file__, "--worker", *map(str, files)]
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""

    def run(self, case: Case) -> tuple[str, str]:
        """What was done to the file, and the verdict."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self._process.stdin is not None
        request = json.dumps([case.seed, case.index, case.model]) + "\n"
        self._process.stdin.write(request.encode())
        self._process.stdin.flush()
        return self._await(case, time.monotonic() + _SECONDS)

    def _await(self, case: Case, deadline: float) -> tuple[str, str]:
        stage, done = "start", "?"
        while True:
            line = self._line(deadline + (_START_SECONDS if stage == "start" else 0))
            if not line:
                return done, self._mourn(case, stage, hung=line is None)
            message: dict[str, Any] = json.loads(line)
            done = message.get("done", done)
            stage = message.get("stage", stage)
            if "verdict" in message:
                return done, message["verdict"]

    def _line(self, deadline: float) -> bytes | None:
        """The next line, empty when the worker died, None when none came in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            wait = max(deadline - time.monotonic(), 0)
            if not select.select([descriptor], [], [], wait)[0]:
                return None
            part = os.read(descriptor, 1 << 16)
            if not part:
                return b""
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _mourn(self, case: Case, stage: str, *, hung: bool) -> str:
        assert self._process is not None
        self._process.kill()
        code = self._process.wait()
        self._process, self._pending = None, b""
        if stage in ("input", "judge"):
            # The input alone is not ours to mend: it is run only to know the right answer.
            return f"ok: the judge {'hangs' if hung else f'dies with {code}'} on the input"
        if hung or stage != "optimize":
            return f"fault: the process {'hangs' if hung else f'dies with {code}'} at {stage}"
        return _isolated(case.make(dict(all_seeds(self._files)))[1])

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _isolated(content: bytes) -> str:
    """A crash in native code may not be the user's: the command says so in one line."""
    with tempfile.TemporaryDirectory(prefix="fuselage-fuzz-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        source.write_bytes(content)
        command = [sys.executable, "-m", "fuselage", "optimize", str(source), str(target), "-q"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=4 * _SECONDS, check=False
        )
        lines = done.stderr.splitlines()
        sound = done.returncode == 1 and len(lines) == 1 and lines[0].startswith("error: ")
        if sound and not target.exists():
            return f"ok: crashed alone: {lines[0]}"
        return f"fault: a crash ends with {done.returncode}, {done.stderr[-300:]!r}"


def _work(files: tuple[Path, ...]) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["HF_HUB_OFFLINE"] = "1"
    from fuzz.judge import judge

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**message: str) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    models = dict(all_seeds(files))
    for line in sys.stdin:
        case = Case(*json.loads(line))
        done, content, chosen = case.make(models)
        tell(done=done, stage="made")
        folder = Path(tempfile.mkdtemp(prefix="fuselage-fuzz-"))
        try:
            verdict = judge(
                content,
                folder,
                ("--quiet", "--threads", "1", *chosen),
                lambda stage: tell(stage=stage),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        tell(verdict=verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
