"""Hold every rewritten graph to the numbers of the graph the pipeline started from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...graph.model import Graph
from ...graph.tensors import Array
from ...passes.base import EXACT, Pass
from .reference import Answer, answers_to, opening_error, reference_answers
from .widen import holds_float16, widen_halves

_QUANTIZED_SLACK = 1.25
"""How much more noise than Q/DQ itself a 16-bit body may have. Its roundings differ from those of
the float32 body in single codes, which moves the noise but does not add to it (MiniLM: 1.04)."""

_FLOAT16 = 2e-2
"""What float16 graphs of one meaning may differ by; roundings moved models of two layers by 2e-5 to
6e-4. Faults that are finer than this show in float32."""

_Outputs = Sequence[Mapping[str, Array]]


class NumberCheck:
    """A pipeline `Check`: the outputs may move by no more than a pass's tolerance.

    The original runs once; each call costs one session of the rewritten graph without ONNX
    Runtime's own optimiser, so that nothing but our passes is judged. Exact passes are held to the
    original, so their errors cannot add up; a pass that may lose digits (a precision) becomes the
    original for those after it.

    Where a query has no key, graphs differ by what they were exported from (docs/semantics.md).
    Answers that depend on a hidden token are therefore compared between canonical graphs only;
    elsewhere they must merely stay finite.

    The roundings of float16 are beyond what an exact pass may change. A graph that computes in
    float16 is therefore run as it is, and held to the digits that float16 has; and once more in
    float32 (`wide`), held to the tolerance of the pass.

    Attributes:
        wide: the same check in float32, None unless the original holds float16.
        not_checked: why nothing is compared, None when it is. Every graph passes then that ONNX
            Runtime opens as it did the original: what cannot be compared is reported, never
            rolled back.
        crossed: passes that may change numbers freely; before and after them is not compared.

    Args:
        original: the graph before the first pass.
        unquantized: the float graph when the original has Q/DQ. A precision is then judged by its
            distance from the float graph, because two quantised graphs that differ in one rounding
            are as far from each other as from the float graph.
        threads: CPU threads, 0 for all physical cores.
        canonical: whether the original went through the canonical passes.
    """

    def __init__(
        self,
        original: Graph,
        unquantized: Graph | None = None,
        threads: int = 0,
        *,
        canonical: bool = False,
    ) -> None:
        self._threads, self._canonical = threads, canonical
        self.not_checked: str | None = None
        self.crossed: list[str] = []
        self._opens = True
        self._expected: tuple[Answer, ...] = ()
        self._float: list[dict[str, Array]] | None = None
        try:
            self._expected = reference_answers(original, threads)
            if unquantized is not None:
                self._float = self._outputs(unquantized)
        except CalibrationError as error:
            self.not_checked = str(error)
            self._opens = opening_error(original, threads) is None
        self.wide = self._widened(original) if unquantized is None else None
        self._exact = EXACT if self.wide is None else _FLOAT16

    def _widened(self, original: Graph) -> NumberCheck | None:
        if self.not_checked is not None or not holds_float16(original):
            return None
        wide = NumberCheck(widen_halves(original), threads=self._threads, canonical=self._canonical)
        return wide if wide.not_checked is None else None

    @property
    def expected(self) -> tuple[Answer, ...]:
        """What graphs are held to; empty when nothing is checked."""
        return self._expected

    def __call__(self, graph: Graph, step: Pass) -> str | None:
        """The reason why the rewritten graph is off, or None."""
        if self.not_checked is not None:
            return self._refusal(graph)
        assert step.tolerance is not None
        try:
            got = self._outputs(graph)
        except CalibrationError as error:
            return f"the rewritten graph does not run: {error}"
        wanted = list(self._expected[0].outputs)
        if list(got[0]) != wanted:
            return f"expected the outputs {wanted}, got {list(got[0])}"
        if step.tolerance <= EXACT:
            reason = self._difference(got, self._exact, hidden=self._canonical)
            return reason or self._wide_reason(graph, step)
        reason = self._difference(got, math.inf)  # shapes, dtypes and NaN
        if reason is not None:
            return reason
        if self._float is not None:
            noise = self._noise(self._float, got)
            expected = [answer.outputs for answer in self._expected]
            allowed = self._noise(self._float, expected)
            limit = _QUANTIZED_SLACK * allowed + step.tolerance
            reason = None if noise <= limit else f"noise {noise:.3f} exceeds {limit:.3f}"
        else:
            reason = self._difference(got, step.tolerance)
        if reason is None:
            reason = self._wide_reason(graph, step)
        if reason is None:
            pairs = zip(self._expected, got, strict=True)
            self._expected = tuple(replace(answer, outputs=outputs) for answer, outputs in pairs)
        return reason

    def _wide_reason(self, graph: Graph, step: Pass) -> str | None:
        if self.wide is None:
            return None
        reason = self.wide(widen_halves(graph), step)
        return None if reason is None else f"in float32, {reason}"

    def _refusal(self, graph: Graph) -> str | None:
        """What can be asked of a graph even so: ONNX Runtime opens it when it opened the original.

        Graphs it does not open at all (operators of others, types it has no kernels for) are held
        to their structure alone.
        """
        if not self._opens:
            return None
        reason = opening_error(graph, self._threads)
        return None if reason is None else f"the rewritten graph does not open: {reason}"

    def restart(self, graph: Graph, step: Pass) -> None:
        """Hold what follows to this graph; a pass that may change numbers freely made it."""
        self.crossed.append(step.spec)
        if self.wide is not None:
            self.wide.restart(widen_halves(graph), step)
        if self.not_checked is not None:
            return
        self._float = None
        try:
            self._expected = reference_answers(graph, self._threads)
        except CalibrationError as error:
            self.not_checked = f"after pass {step.spec}: {error}"
            self._opens = opening_error(graph, self._threads) is None

    def _difference(self, got: _Outputs, tolerance: float, *, hidden: bool = False) -> str | None:
        for answer, outputs in zip(self._expected, got, strict=True):
            for name, wanted in answer.outputs.items():
                defined = None if answer.defined is None or hidden else answer.defined[name]
                reason = output_difference(wanted, outputs[name], tolerance, defined)
                if reason is not None:
                    return f"output {name!r} at {answer.sample.shapes}: {reason}"
        return None

    def _noise(self, reference: _Outputs, other: _Outputs) -> float:
        """Relative error over all outputs and all samples where every query has a key."""
        whole = [index for index, answer in enumerate(self._expected) if answer.defined is None]
        return relative_error(_flat(reference, whole), _flat(other, whole))

    def _outputs(self, graph: Graph) -> list[dict[str, Array]]:
        samples = [answer.sample for answer in self._expected]
        return answers_to(graph, samples, threads=self._threads)


def output_difference(
    wanted: Array, got: Array, tolerance: float, defined: NDArray[np.bool_] | None = None
) -> str | None:
    """Why two arrays are not the same, or None.

    Args:
        wanted: of the original.
        got: of the rewritten graph.
        tolerance: largest relative error (Frobenius).
        defined: the elements to compare; the others must only be finite where `wanted` is.
    """
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"expected {wanted.dtype}{list(wanted.shape)}, got {got.dtype}{list(got.shape)}"
    if defined is not None:
        lost = ~defined & np.isfinite(wanted) & ~np.isfinite(got)
        if lost.any():
            return f"{int(lost.sum())} values where every key is hidden were finite and are not"
        wanted, got = wanted[defined], got[defined]
    error = relative_error(wanted, got)
    if not error <= tolerance:  # also true for NaN
        return f"relative error {error:.2e} exceeds {tolerance:.0e}"
    return None


def relative_error(reference: Array, other: Array) -> float:
    """Frobenius norm of the difference over that of the reference."""
    wanted, got = reference.astype(np.float64), other.astype(np.float64)
    norm = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(wanted - got)) / (norm if norm > 0 else 1.0)


def _flat(outputs: _Outputs, samples: Sequence[int]) -> NDArray[np.float64]:
    arrays = [array for index in samples for array in outputs[index].values()]
    return np.concatenate([np.zeros(0), *(array.astype(np.float64).ravel() for array in arrays)])
