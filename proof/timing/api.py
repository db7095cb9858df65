"""``fuselage.bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .results import Benchmark


def bench(
    *subjects: str | Path,
    baselines: Sequence[str] = (),
    model: str | None = None,
    task: str = "auto",
    mode: Literal["engine", "e2e", "pipeline"] = "engine",
    shapes: str | Sequence[str] = (),
    texts: Sequence[str | Path] = (),
    clients: int = 1,
    rate: float | None = None,
    seconds: float = 3.0,
    iterations: int = 10,
    threads: int = 0,
    floor: float = 0.02,
    memory: bool = True,
    anyway: bool = False,
    trust: bool = False,
) -> Benchmark:
    """Time subjects in rounds of random order and say which differences are more than noise.

    Args:
        subjects: folders of bundles, .onnx files or ``torch:MODEL``; the others are compared with
            the first.
        baselines: of ``torch-eager``, ``torch-sdpa``, ``torch-compile``, ``ort``; or ``all``.
        model: what baselines run; None for the model of the first bundle.
        task: of ``torch:`` subjects and ``model``.
        mode: arrays to arrays, the same with the copies of a GPU, or texts to answers.
        shapes: such as ``1x128,8x128``; ``8`` is eight texts of their own lengths.
        texts: files whose texts give lengths and tokens; empty for the corpus that ships.
        clients: threads that send calls.
        rate: calls a second of open load; None for clients that wait for their answers.
        seconds: timed of each candidate, at least.
        iterations: calls of each candidate, at least.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        floor: difference that counts, 0.02 for two percent.
        memory: measure peak memory, each candidate in a process of its own.
        anyway: on a busy machine give figures without verdicts.
        trust: open engines without a manifest; a TensorRT plan is code.

    Raises:
        DeviceError: when the machine is too busy to conclude anything.
        FeedError: when a subject does not take a shape, or options contradict one another.
        FuselageError: as opening the subjects does.
    """
    from .bench import run_bench
    from .race import Rules
    from .request import Request

    request = Request(
        subjects=tuple(map(str, subjects)),
        baselines=_list(baselines),
        model=model,
        task=task,
        mode=mode,
        shapes=_list(shapes),
        texts=tuple(map(Path, texts)),
        clients=clients,
        rate=rate,
        rules=Rules(seconds=seconds, iterations=iterations),
        threads=threads,
        floor=floor,
        memory=memory,
        anyway=anyway,
        trust=trust,
    )
    return run_bench(request)


def _list(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name alone is one name, not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)
