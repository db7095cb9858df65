"""What the machine does at best: operations a second in a product, bytes a second in a copy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...calibration.session import GraphSession
from ...compiler.precisions.cost import RATES
from ...engines import host
from ...errors import DeviceError
from ...graph.model import Graph

_SIZE = 1024
_COPIES = (1 << 18, 1 << 22, 1 << 26)
"""Bytes a copy moves: in the caches of a core, in those of the chip, in memory."""

_PRODUCTS: Mapping[str, tuple[str, str, str]] = {
    "float32": ("float", "float", "MatMul"),
    "int8": ("uint8", "int32", "MatMulInteger"),
}


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The best rates of a machine.

    Attributes:
        source: how they are known.
        flops: operations a second with floating-point operands.
        integer_flops: operations a second with 8-bit operands.
        copies: (bytes moved at once, bytes a second), fewest bytes first.
    """

    source: str
    flops: float
    integer_flops: float
    copies: tuple[tuple[int, float], ...]

    def raised(self, flops: float, integer_flops: float) -> Peaks:
        """The same with rates at least as high: a product that was faster proves them too low."""
        return replace(
            self,
            flops=max(self.flops, flops),
            integer_flops=max(self.integer_flops, integer_flops),
        )

    def bandwidth(self, moved: float) -> float:
        """The best rate for this many bytes or more."""
        rates = [rate for size, rate in self.copies if size >= moved]
        return max(rates, default=self.copies[-1][1])

    def floor(self, flops: float, moved: float, *, integer: bool = False) -> float:
        """Seconds that a node takes at least: the longer of its arithmetic and its traffic."""
        arithmetic = flops / (self.integer_flops if integer else self.flops)
        return max(arithmetic, moved / self.bandwidth(moved))

    def bound(self, flops: float, moved: float, *, integer: bool = False) -> str:
        """``compute`` or ``memory``, whichever takes longer."""
        arithmetic = flops / (self.integer_flops if integer else self.flops)
        return "compute" if arithmetic > moved / self.bandwidth(moved) else "memory"


def measure_peaks(*, threads: int = 0, seconds: float = 0.3) -> Peaks:
    """Measure the CPU: square products of 1,024 in ONNX Runtime, copies of numpy arrays.

    Args:
        threads: 0 for all physical cores.
        seconds: for each of five measurements; the best run counts.

    Raises:
        CalibrationError: when ONNX Runtime cannot run a product.
    """
    threads = threads or host.physical_cores()
    rates = {name: _product_rate(name, threads, seconds) for name in _PRODUCTS}
    return Peaks(
        source=f"measured: products of {_SIZE}, copies, {threads} threads",
        flops=rates["float32"],
        integer_flops=rates["int8"],
        copies=tuple((size, _copy_rate(size, threads, seconds)) for size in _COPIES),
    )


def gpu_peaks(capability: str, precision: str) -> Peaks:
    """The data sheet's rates of one GPU of a compute capability, such as ``SM89``.

    Raises:
        DeviceError: when there is no data sheet for it.
    """
    rates = RATES.get(capability)
    if rates is None:
        raise DeviceError(
            f"compute capability {capability!r}: the rates of {', '.join(RATES)} are known; "
            "inspect an engine that was compiled for one of them"
        )
    coded = rates.fp8 if precision == "fp8" else rates.int8
    float_rates = {"fp32": rates.single, "int8": rates.int8, "fp8": rates.fp8}
    return Peaks(
        source=f"data sheet of {rates.name} ({capability})",
        flops=float_rates.get(precision, rates.half),
        integer_flops=coded,
        copies=((1, rates.bandwidth),),
    )


def _product_rate(name: str, threads: int, seconds: float) -> float:
    operand, result, op = _PRODUCTS[name]
    n = _SIZE
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        peak ({operand}[{n}, {n}] x, {operand}[{n}, {n}] w) => ({result}[{n}, {n}] y)
        {{ y = {op}(x, w) }}"""
    )
    weight = model.graph.inputs.pop(1)
    array = np.ones((n, n), np.float32 if name == "float32" else np.uint8)
    weight.const_value = ir.tensor(array, name=weight.name)
    model.graph.register_initializer(weight)
    session = GraphSession(Graph(model), threads=threads)
    try:
        feeds: dict[str, Any] = {"x": array}
        return 2 * n**3 / _best(lambda: session.run(feeds), seconds)
    finally:
        session.close()


def _copy_rate(size: int, threads: int, seconds: float) -> float:
    """Bytes a second of threads that each copy their part; a byte is read and written."""
    part = max(64, size // threads // 2)
    repeats = max(1, (1 << 24) // part)
    arrays = [(np.ones(part, np.uint8), np.zeros(part, np.uint8)) for _ in range(threads)]

    def copy(target: Any, source: Any) -> None:
        for _ in range(repeats):
            np.copyto(target, source)

    def copy_all() -> None:
        workers = [threading.Thread(target=copy, args=(two, one)) for one, two in arrays]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return 2 * part * threads * repeats / _best(copy_all, seconds)


def _best(work: Callable[[], object], seconds: float) -> float:
    work()
    best, stop = float("inf"), time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        work()
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended > stop:
            return best
