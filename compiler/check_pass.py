"""Hold every rewritten graph to the numbers of the graph the pipeline started from."""

from __future__ import annotations

import numpy as np

from ..calibration.session import GraphSession
from ..errors import CalibrationError
from ..graph.model import Graph
from ..graph.tensors import Array
from ..passes.base import EXACT, Pass
from .sampling import samples


class NumberCheck:
    """A pipeline `Check`: the outputs may move by no more than a pass's tolerance.

    The original runs once; each call costs one session of the rewritten graph without ONNX
    Runtime's own optimiser, so that nothing but our passes is judged. Exact passes are held to the
    original, so their errors cannot add up; a pass that may lose digits (a precision) becomes the
    original for those after it.

    Args:
        original: the graph before the first pass.
        threads: CPU threads, 0 for all physical cores.
    """

    def __init__(self, original: Graph, threads: int = 0) -> None:
        self._threads = threads
        self._feeds = tuple(samples(original))
        self._expected = self._outputs(original)

    def __call__(self, graph: Graph, step: Pass) -> str | None:
        """The reason why the rewritten graph is off, or None."""
        assert step.tolerance is not None
        try:
            got = self._outputs(graph)
        except CalibrationError as error:
            return f"the rewritten graph does not run: {error}"
        for feeds, before, after in zip(self._feeds, self._expected, got, strict=True):
            for name, wanted in before.items():
                reason = _difference(wanted, after[name], step.tolerance)
                if reason is not None:
                    shape = list(next(iter(feeds.values())).shape)
                    return f"output {name!r} at input shape {shape}: {reason}"
        if step.tolerance > EXACT:
            self._expected = got
        return None

    def _outputs(self, graph: Graph) -> list[dict[str, Array]]:
        with GraphSession(graph, threads=self._threads) as session:
            return [session.run(feeds) for feeds in self._feeds]


def _difference(wanted: Array, got: Array, tolerance: float) -> str | None:
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"expected {wanted.dtype}{list(wanted.shape)}, got {got.dtype}{list(got.shape)}"
    reference = wanted.astype(np.float64)
    error = relative_error(reference, got.astype(np.float64))
    if not error <= tolerance:  # also true for NaN
        return f"relative error {error:.2e} exceeds {tolerance:.0e}"
    return None


def relative_error(reference: Array, other: Array) -> float:
    """Frobenius norm of the difference over that of the reference."""
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(np.subtract(reference, other))) / (norm if norm > 0 else 1.0)
