"""The TensorRT executor on real streams, events, pinned memory and CUDA graphs."""

from __future__ import annotations

import importlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from executor_overhead import load

from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine

from .part import Findings, Sizes, SkipPartError, spread
from .pretend import WIDTH, Kernels, copies, faked, open_pretended, torch_kernels

_GRAPHS = {"CUDA graphs": {"graph_after": 1}, "no CUDA graphs": {"graphs": 0}}
_LANES = (1, 2, 3)


def measure(sizes: Sizes) -> Findings:
    """Every answer is checked; one wrong answer ends the part."""
    fakes = load("fake")
    if not sizes.smoke and (blocker := Cuda.blocker()):
        raise SkipPartError(blocker)
    api = fakes.FakeCuda() if sizes.smoke else importlib.import_module("cuda.bindings.runtime")
    findings = Findings()
    for kernels in _kernels(api, sizes, findings):
        for name, options in _GRAPHS.items():
            with open_pretended(Cuda(api), fakes, kernels, **options) as engine:
                _latency(engine, kernels, sizes, findings, name)
        for lanes in _LANES:
            with open_pretended(Cuda(api), fakes, kernels, lanes=lanes) as engine:
                _throughput(engine, kernels, sizes, findings, lanes)
    if sizes.smoke and (leaks := api.leaks()):
        raise AssertionError(f"not given back: {leaks}")
    return findings


def _kernels(api: Any, sizes: Sizes, findings: Findings) -> list[Kernels]:
    if sizes.smoke:
        return [copies(api), faked(api)]
    try:
        import torch
    except ImportError:
        findings.notes.append("torch is not here: copies alone stand for kernels")
        return [copies(api)]
    if not torch.cuda.is_available():
        findings.notes.append(f"torch {torch.__version__} has no CUDA: copies alone")
        return [copies(api)]
    return [copies(api), torch_kernels(torch)]


def _feeds(batch: int, sequence: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {"x": random.standard_normal((batch, sequence, WIDTH), np.float32)}


def _check(engine: TensorRtEngine, kernels: Kernels, feeds: dict[str, Any]) -> None:
    answer = engine.run(feeds)["y"]
    if not np.array_equal(answer, kernels.answer(feeds["x"])):
        raise AssertionError(f"{kernels.name}: a wrong answer to {feeds['x'].shape}")


def _latency(
    engine: TensorRtEngine, kernels: Kernels, sizes: Sizes, findings: Findings, name: str
) -> None:
    for batch in sizes.batches[:2]:
        feeds = _feeds(batch, sizes.sequence, batch)
        for _ in range(4):
            _check(engine, kernels, feeds)
        found = spread(lambda: engine.run(feeds), sizes)  # noqa: B023
        held = engine.statistics()
        findings.row(
            f"{kernels.name}, {name}",
            batch=batch,
            **found,
            graph_launches=held.graph_launches,
            capture_failures=held.capture_failures,
        )
    findings.notes += [f"{kernels.name}: {note}" for note in engine.notes]


def _throughput(
    engine: TensorRtEngine, kernels: Kernels, sizes: Sizes, findings: Findings, lanes: int
) -> None:
    """Threads that call as fast as they can, with shapes of all kinds; then each answer again."""
    threads, calls = 2 * lanes + 2, 6 if sizes.smoke else 200
    batch = max(sizes.batches[:2])
    shapes = [(1, sizes.sequence), (batch, sizes.sequence), (1, 3)]

    def work(thread: int) -> None:
        for call in range(calls):
            _check(engine, kernels, _feeds(*shapes[call % len(shapes)], thread * calls + call))

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(threads)]:
            done.result()
        feeds = _feeds(batch, sizes.sequence, 0)
        began = time.perf_counter()
        many = threads * calls
        for done in [pool.submit(engine.run, feeds) for _ in range(many)]:
            done.result()
        seconds = time.perf_counter() - began
    findings.row(
        f"{kernels.name}, {threads} threads",
        lanes=lanes,
        batch=batch,
        checked=many,
        calls_per_s=many / seconds,
    )
