"""What nothing on this machine can beat: launching, copying, multiplying."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from executor_overhead import load

from fuselage.engines.tensorrt.cuda import Cuda

from .part import Findings, Sizes, SkipPartError, spread

_QUEUED = 200


def measure(sizes: Sizes) -> Findings:
    """Launches and copies through our own calls of CUDA, products through PyTorch where it is."""
    findings = Findings()
    if not sizes.smoke and (blocker := Cuda.blocker()):
        raise SkipPartError(blocker)
    api = (
        load("fake").FakeCuda() if sizes.smoke else importlib.import_module("cuda.bindings.runtime")
    )
    cuda = Cuda(api)
    stream = cuda.create_stream()
    try:
        _launches(cuda, stream, sizes, findings)
        _copies(cuda, stream, sizes, findings)
    finally:
        cuda.destroy_stream(stream)
    _products(sizes, findings)
    return findings


def _launches(cuda: Cuda, stream: int, sizes: Sizes, findings: Findings) -> None:
    """The smallest work there is: 4 bytes copied within the GPU, queued alone and as a graph."""
    memory = cuda.allocate(512, stream)
    cuda.synchronize(stream)

    def smallest() -> None:
        cuda.copy_on_device(memory + 256, memory, 4, stream)

    smallest()
    cuda.begin_capture(stream)
    smallest()
    graph = cuda.end_capture(stream)
    executable = cuda.instantiate(graph)
    for name, queue in (
        ("smallest work", smallest),
        ("smallest graph", lambda: cuda.launch(executable, stream)),
    ):
        findings.row(f"{name}, waited for", **spread(_waited(cuda, stream, queue), sizes))
        began = time.perf_counter_ns()
        for _ in range(_QUEUED):
            queue()
        queued = (time.perf_counter_ns() - began) / _QUEUED
        cuda.synchronize(stream)
        done = (time.perf_counter_ns() - began) / _QUEUED
        findings.row(f"{name}, one after another", enqueue_us=queued / 1e3, each_us=done / 1e3)
    cuda.destroy_executable(executable)
    cuda.destroy_graph(graph)
    cuda.free(memory, stream)
    cuda.synchronize(stream)


def _copies(cuda: Cuda, stream: int, sizes: Sizes, findings: Findings) -> None:
    size = sizes.megabytes << 20
    one, other = cuda.allocate(size, stream), cuda.allocate(size, stream)
    cuda.synchronize(stream)
    pinned = cuda.allocate_pinned(size)
    ways: dict[str, Callable[[], None]] = {
        "to the GPU": lambda: cuda.copy_to_device(one, pinned.address, size, stream),
        "from the GPU": lambda: cuda.copy_to_host(pinned.address, one, size, stream),
        "within the GPU": lambda: cuda.copy_on_device(other, one, size, stream),
    }
    for name, queue in ways.items():
        found = spread(_waited(cuda, stream, queue), sizes)
        moved = size * (2 if name == "within the GPU" else 1)
        rate = moved / found["p50_ms"] / 1e6
        findings.row(f"copy {name}", megabytes=sizes.megabytes, gb_per_s=rate, **found)
    cuda.free(one, stream)
    cuda.free(other, stream)
    cuda.synchronize(stream)
    cuda.free_pinned(pinned)


def _products(sizes: Sizes, findings: Findings) -> None:
    try:
        import torch
    except ImportError:
        findings.notes.append("torch is not here: arithmetic was not measured")
        return
    if not sizes.smoke and not torch.cuda.is_available():
        findings.notes.append(f"torch {torch.__version__} has no CUDA: no arithmetic")
        return
    device, width = ("cpu", sizes.matrix) if sizes.smoke else ("cuda", sizes.matrix)
    wait = (lambda: None) if sizes.smoke else torch.cuda.synchronize
    for name, dtype, tf32 in (
        ("float16", torch.float16, False),
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        one = torch.randn(width, width, device=device).to(dtype)
        _product(findings, sizes, name, wait, lambda: one @ one)  # noqa: B023
    if not sizes.smoke:
        codes = torch.randint(-128, 127, (width, width), device=device, dtype=torch.int8)
        other = codes.t().contiguous().t()
        _product(findings, sizes, "int8", wait, lambda: torch._int_mm(codes, other))  # noqa: SLF001


def _product(
    findings: Findings,
    sizes: Sizes,
    name: str,
    wait: Callable[[], Any],
    multiply: Callable[[], Any],
) -> None:
    def call() -> None:
        multiply()
        wait()

    found = spread(call, sizes)
    rate = 2 * sizes.matrix**3 / found["p50_ms"] / 1e9
    findings.row(f"product {name}", width=sizes.matrix, tflops=rate, **found)


def _waited(cuda: Cuda, stream: int, queue: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        queue()
        cuda.synchronize(stream)

    return call
