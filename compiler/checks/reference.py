"""Answers of a graph on samples that it accepts, and which parts of them mean anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...calibration.session import GraphSession
from ...errors import CalibrationError, GraphError
from ...graph.model import Graph
from ...graph.tensors import Array
from .input_roles import InputRole, SizePlan, input_roles, size_plans
from .sampling import CASES, Sample, draw
from .widen import widen_bfloat16

_MOST_PLANS = 32
_MOST_SECONDS = 120.0
"""For all samples; those of BERT-base take 0.3 s."""

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a graph answers to one sample.

    Attributes:
        sample: what it was fed.
        outputs: name -> array.
        defined: name -> which elements depend on no hidden token; None when all of them are
            compared.
    """

    sample: Sample
    outputs: Mapping[str, Array]
    defined: Mapping[str, NDArray[np.bool_]] | None = None


def reference_answers(graph: Graph, threads: int = 0, seed: int = 0) -> tuple[Answer, ...]:
    """Answers on every case that the graph runs.

    Sizes are proposed from the roles of the inputs and changed until the graph accepts them; cases
    that it rejects even so (an empty cache, a batch that was fixed when it was traced) are left
    out, and so are those it answers with NaN.

    Raises:
        CalibrationError: why there is nothing to compare with.
    """
    drawn = sorted(_RANDOM & graph.op_counts.keys())
    if drawn:
        raise CalibrationError(f"the graph draws random numbers ({drawn[0]})")
    try:
        roles = input_roles(graph)
        session = GraphSession(widen_bfloat16(graph), threads=threads, seconds=_MOST_SECONDS)
    except GraphError as error:
        raise CalibrationError(str(error)) from error
    with session:
        plan = _accepted_plan(session, roles, seed)
        answers = tuple(_answers(session, roles, plan, seed))
    if not answers:
        raise CalibrationError("the graph answers every sample with NaN")
    return answers


def answers_to(
    graph: Graph, samples: Sequence[Sample], taps: Sequence[str] = (), threads: int = 0
) -> list[dict[str, Array]]:
    """Outputs and taps of a graph, one dict a sample.

    Raises:
        CalibrationError: when it does not run.
    """
    with GraphSession(widen_bfloat16(graph), taps, threads) as session:
        return [session.run(sample.feeds) for sample in samples]


def opening_error(graph: Graph, threads: int = 0) -> str | None:
    """Why ONNX Runtime does not take the graph, None when it does."""
    try:
        GraphSession(widen_bfloat16(graph), threads=threads).close()
    except (CalibrationError, GraphError) as error:
        return str(error)
    return None


def defined_elements(
    sample: Sample, outputs: Mapping[str, Array], redrawn: Mapping[str, Array]
) -> dict[str, NDArray[np.bool_]]:
    """Which elements a graph of any semantics answers the same.

    They are the same whatever the hidden tokens are (a vector along the last axis as a whole), and
    not of a row without any key: where a guard answers 0 for it, hidden tokens have no say either.
    """
    defined = {name: _same_vectors(array, redrawn[name]) for name, array in outputs.items()}
    for elements in defined.values():
        if elements.ndim and elements.shape[0] == len(sample.empty_rows):
            elements[sample.empty_rows] = False
    return defined


def _same_vectors(array: Array, other: Array) -> NDArray[np.bool_]:
    if array.shape != other.shape:
        return np.zeros(array.shape, bool)
    same: NDArray[np.bool_] = np.equal(array, other)
    if array.ndim < 2:
        return same
    return np.broadcast_to(same.all(axis=-1, keepdims=True), array.shape).copy()


def _accepted_plan(session: GraphSession, roles: tuple[InputRole, ...], seed: int) -> SizePlan:
    plans = [plan for plan, _ in zip(size_plans(roles), range(_MOST_PLANS), strict=False)]
    first: CalibrationError | None = None
    for case in (CASES[0], CASES[2], CASES[1]):
        for plan in plans:
            try:
                session.run(draw(roles, plan, case, seed).feeds)
            except CalibrationError as error:
                first = first or error
            else:
                return plan
    raise CalibrationError(f"the graph itself rejects every sample: {first}") from first


def _answers(
    session: GraphSession, roles: tuple[InputRole, ...], plan: SizePlan, seed: int
) -> Iterator[Answer]:
    for index, case in enumerate(CASES):
        sample = draw(roles, plan, case, seed + index)
        try:
            outputs = session.run(sample.feeds)
            redrawn = None if sample.redrawn is None else session.run(sample.redrawn)
        except CalibrationError:
            continue
        _require_numbers(outputs)
        if redrawn is not None:
            yield Answer(sample, outputs, defined_elements(sample, outputs, redrawn))
        elif not any(_has_nan(array) for array in outputs.values()):
            yield Answer(sample, outputs)


def _require_numbers(outputs: Mapping[str, object]) -> None:
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise CalibrationError(f"output {name!r} is no tensor of numbers")


def _has_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())
