"""Measure the forms of `passes.costs` on this machine.

Every form is a small graph, the operator four times in a row, run as it is written. The forms of a
choice are timed in one process, in rounds of random order, and compared within a round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import onnx_ir as ir

from ..calibration.session import GraphSession
from ..engines import host
from ..engines.ort.session import runtime_version
from ..errors import PassError
from ..graph.model import Graph
from ..graph.tensors import Array
from ..passes.costs import CHOICES, CostTable, Measurement

SHAPES = ((1, 128, 384), (1, 128, 768), (8, 128, 384), (8, 128, 768))
"""[batch, sequence, hidden] of small and base models, alone and in a batch."""

TARGET = "ort-cpu"
HEAD_SIZE = 64
_REPEATS = 4
_LEAST_ROUNDS = 15

_GRAPHS: Mapping[str, str] = {
    "Attention": "@o = Attention<q_num_heads = H, kv_num_heads = H>(@i, x, x, mask)",
    "MultiHeadAttention": (
        "@o = com.microsoft.MultiHeadAttention<num_heads = H>(@i, x, x, , , mask)"
    ),
    "three products": """
        q@ = MatMul(@i, w)  k@ = MatMul(@i, w)  v@ = MatMul(@i, w)
        qb@ = Add(q@, bias)  kb@ = Add(k@, bias)  vb@ = Add(v@, bias)
        qk@ = Add(qb@, kb@)  @o = Add(qk@, vb@)""",
    "one product": """
        m@ = MatMul(@i, w3)  a@ = Add(m@, bias3)
        qb@, kb@, vb@ = Split<axis = -1, num_outputs = 3>(a@)
        qk@ = Add(qb@, kb@)  @o = Add(qk@, vb@)""",
    "Add, LayerNormalization": "a@ = Add(@i, x)  @o = LayerNormalization(a@, gamma, bias)",
    "SkipLayerNormalization": "@o = com.microsoft.SkipLayerNormalization(@i, x, gamma, bias)",
    "Add, RMSNormalization": "a@ = Add(@i, x)  @o = RMSNormalization(a@, gamma)",
    "SkipSimplifiedLayerNormalization": (
        "@o = com.microsoft.SkipSimplifiedLayerNormalization(@i, x, gamma)"
    ),
}
"""Form -> its graph; ``@i`` and ``@o`` are what a repetition reads and writes."""


@dataclass(frozen=True)
class _Candidate:
    form: str
    session: GraphSession


def tune(
    *,
    threads: int = 0,
    seconds: float = 2.0,
    on_choice: Callable[[str], None] = lambda _: None,
) -> CostTable:
    """Measure every choice at every shape.

    Args:
        threads: of a session, 0 for all physical cores.
        seconds: for a choice at a shape.
        on_choice: told what is being measured.

    Raises:
        CalibrationError: when ONNX Runtime cannot run a form.
    """
    threads = threads or host.physical_cores()
    measurements: list[Measurement] = []
    for choice in CHOICES:
        for shape in SHAPES:
            on_choice(f"{choice} at {list(shape)}")
            measurements += _measure(choice, shape, threads, seconds)
    return CostTable(
        target=TARGET,
        machine=_machine(),
        runtime=_runtime(),
        threads=threads,
        date=datetime.now(UTC).date().isoformat(),
        measurements=tuple(measurements),
    )


def load_costs(path: Path) -> tuple[CostTable, str | None]:
    """A table of this module, and a note when it was measured elsewhere.

    Raises:
        PassError: when the file is no cost table, or one of another target.
    """
    table = CostTable.load(path)
    if table.target != TARGET:
        raise PassError(f"{path}: expected a cost table of {TARGET}, got one of {table.target}")
    measured, here = (table.machine, table.runtime), (_machine(), _runtime())
    if measured == here:
        return table, None
    return table, (
        f"{path} was measured on {' with '.join(measured)}, this is {' with '.join(here)}; "
        "measure again with fuselage tune"
    )


def _machine() -> str:
    return host.cpu().model or host.cpu().arch


def _runtime() -> str:
    return f"onnxruntime {runtime_version()}"


def _measure(
    choice: str, shape: tuple[int, int, int], threads: int, seconds: float
) -> Iterator[Measurement]:
    candidates = [
        _Candidate(form, GraphSession(graph_of(form, shape[2]), threads=threads))
        for form in CHOICES[choice]
    ]
    try:
        times = _race(candidates, _feeds(shape), seconds)
    finally:
        for candidate in candidates:
            candidate.session.close()
    canonical = times[next(iter(CHOICES[choice]))]
    for form, series in times.items():
        ratios = [ours / theirs for ours, theirs in zip(series, canonical, strict=True)]
        yield Measurement(
            choice=choice,
            form=form,
            shape=shape,
            milliseconds=round(median(series) * 1e3 / _REPEATS, 5),
            ratio=round(median(ratios), 4),
        )


def _race(
    candidates: list[_Candidate], feeds: Mapping[str, Array], seconds: float
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {candidate.form: [] for candidate in candidates}
    needed = {c.form: {s.name: feeds[s.name] for s in c.session.inputs} for c in candidates}
    for candidate in candidates:
        candidate.session.run(needed[candidate.form])
    order, rng = list(candidates), random.Random(0)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[candidates[0].form]) < _LEAST_ROUNDS:
        rng.shuffle(order)
        for candidate in order:
            started = time.perf_counter()
            candidate.session.run(needed[candidate.form])
            times[candidate.form].append(time.perf_counter() - started)
    return times


def graph_of(form: str, hidden: int) -> Graph:
    """The graph of a form: x [batch, sequence, hidden] -> y of the same shape."""
    steps = [
        _GRAPHS[form]
        .replace("@i", f"y{index}" if index else "x")
        .replace("@o", f"y{index + 1}" if index + 1 < _REPEATS else "y")
        .replace("@", f"_{index}_")
        .replace("= H", f"= {hidden // HEAD_SIZE}")
        for index in range(_REPEATS)
    ]
    weights = _weights(hidden)
    inputs = [f"float[{', '.join(map(str, shape))}] {name}" for name, shape in weights.items()]
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>
        form (float[b, s, {hidden}] x, float[b, 1, s, s] mask, {", ".join(inputs)})
            => (float[b, s, {hidden}] y) {{ {" ".join(steps)} }}"""
    )
    rng = np.random.default_rng(0)
    for value in tuple(model.graph.inputs):
        if value.name in weights or not value.uses():
            model.graph.inputs.remove(value)
        if value.name in weights and value.uses():
            array = rng.normal(0, hidden**-0.5, weights[value.name]).astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            model.graph.register_initializer(value)
    return Graph(model)


def _weights(hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        "gamma": (hidden,),
        "bias": (hidden,),
        "bias3": (3 * hidden,),
        "w": (hidden, hidden),
        "w3": (hidden, 3 * hidden),
    }


def _feeds(shape: tuple[int, int, int]) -> dict[str, Array]:
    batch, sequence, hidden = shape
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(0, 1, (batch, sequence, hidden)).astype(np.float32),
        "mask": np.zeros((batch, 1, sequence, sequence), np.float32),
    }
