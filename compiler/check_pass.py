"""Hold every rewritten graph to the numbers of the graph the pipeline started from."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..calibration.session import GraphSession
from ..errors import CalibrationError
from ..graph.model import Graph
from ..graph.tensors import Array
from ..passes.base import EXACT, Pass
from .sampling import samples
from .widen import widen_bfloat16

_QUANTIZED_SLACK = 1.25
"""How much more noise than Q/DQ itself a 16-bit body may have. Its roundings differ from those of
the float32 body in single codes, which moves the noise but does not add to it (MiniLM: 1.04)."""

_Outputs = list[dict[str, Array]]


class NumberCheck:
    """A pipeline `Check`: the outputs may move by no more than a pass's tolerance.

    The original runs once; each call costs one session of the rewritten graph without ONNX
    Runtime's own optimiser, so that nothing but our passes is judged. Exact passes are held to the
    original, so their errors cannot add up; a pass that may lose digits (a precision) becomes the
    original for those after it.

    Args:
        original: the graph before the first pass.
        unquantized: the float graph when the original has Q/DQ. A precision is then judged by its
            distance from the float graph, because two quantised graphs that differ in one rounding
            are as far from each other as from the float graph.
        threads: CPU threads, 0 for all physical cores.
    """

    def __init__(self, original: Graph, unquantized: Graph | None = None, threads: int = 0) -> None:
        self._threads = threads
        self._feeds = tuple(samples(original))
        self._expected = self._outputs(original)
        self._float = None if unquantized is None else self._outputs(unquantized)

    def __call__(self, graph: Graph, step: Pass) -> str | None:
        """The reason why the rewritten graph is off, or None."""
        assert step.tolerance is not None
        try:
            got = self._outputs(graph)
        except CalibrationError as error:
            return f"the rewritten graph does not run: {error}"
        if list(got[0]) != list(self._expected[0]):
            return f"expected the outputs {list(self._expected[0])}, got {list(got[0])}"
        if step.tolerance <= EXACT:
            return self._difference(got, EXACT)
        reason = self._difference(got, math.inf)  # shapes, dtypes and NaN
        if reason is not None:
            return reason
        if self._float is not None:
            noise, allowed = _noise(self._float, got), _noise(self._float, self._expected)
            limit = _QUANTIZED_SLACK * allowed + step.tolerance
            reason = None if noise <= limit else f"noise {noise:.3f} exceeds {limit:.3f}"
        else:
            reason = self._difference(got, step.tolerance)
        if reason is None:
            self._expected = got
        return reason

    def _difference(self, got: _Outputs, tolerance: float) -> str | None:
        for feeds, before, after in zip(self._feeds, self._expected, got, strict=True):
            for name, wanted in before.items():
                reason = _output_difference(wanted, after[name], tolerance)
                if reason is not None:
                    shape = list(next(iter(feeds.values())).shape)
                    return f"output {name!r} at input shape {shape}: {reason}"
        return None

    def _outputs(self, graph: Graph) -> _Outputs:
        with GraphSession(widen_bfloat16(graph), threads=self._threads) as session:
            return [session.run(feeds) for feeds in self._feeds]


def _output_difference(wanted: Array, got: Array, tolerance: float) -> str | None:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"expected {wanted.dtype}{list(wanted.shape)}, got {got.dtype}{list(got.shape)}"
    error = _relative_error(wanted.astype(np.float64), got.astype(np.float64))
    if not error <= tolerance:  # also true for NaN
        return f"relative error {error:.2e} exceeds {tolerance:.0e}"
    return None


def _relative_error(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Frobenius norm of the difference over that of the reference."""
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(reference - other)) / (norm if norm > 0 else 1.0)


def _noise(reference: _Outputs, other: _Outputs) -> float:
    """Relative error over all samples and outputs together."""
    return _relative_error(_flat(reference), _flat(other))


def _flat(outputs: _Outputs) -> NDArray[np.float64]:
    arrays = [array.astype(np.float64).ravel() for sample in outputs for array in sample.values()]
    return np.concatenate(arrays)
