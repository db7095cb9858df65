"""Which linears the damage of INT8 comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..graph.model import Graph
from ..passes.pipeline import PassPipeline
from ..passes.qdq.policy import Linear, QuantPlan, QuantPolicy
from .data import Batch
from .quality import Runnable
from .session import GraphSession
from .table import CalibrationTable


@dataclass(frozen=True, kw_only=True)
class LinearNoise:
    """What one linear alone does to the model's answer when it is INT8.

    Attributes:
        linear: the linear.
        noise: energy of the answer's error over energy of the answer.
    """

    linear: Linear
    noise: float

    @property
    def macs(self) -> int:
        """Multiplications a token."""
        return self.linear.depth * self.linear.channels

    @property
    def noise_per_mac(self) -> float:
        """What leaving it in float gains for what it costs."""
        return self.noise / self.macs


def linear_noises(
    graph: Graph,
    table: CalibrationTable,
    batches: Sequence[Batch],
    *,
    output: str,
    policy: QuantPolicy | None = None,
    threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[LinearNoise, ...]:
    """Put each linear alone into INT8 and look at the model's answer.

    The energies add up: on MiniLM the sum over 36 linears predicts the noise of all of them
    together within 0.1 dB, so no combinations need to be tried.

    Args:
        graph: the float graph.
        table: its ranges.
        batches: of texts that the ranges do not come from.
        output: name of the output that counts.
        policy: the one calibrated with.
        threads: CPU threads, 0 for all physical cores.
        on_progress: called with (linears done, linears in all).

    Returns:
        One entry a planned linear, in graph order.
    """
    policy = policy or QuantPolicy()
    plan = policy.plan(graph.model)
    with GraphSession(graph, threads=threads) as session:
        expected = _answers(session, batches, output)
    found = []
    for number, linear in enumerate(plan.linears, start=1):
        alone = _only(plan, linear, policy)
        quantized = PassPipeline(table.passes(alone)).run(graph)
        with GraphSession(quantized, threads=threads) as session:
            noise = _noise(expected, _answers(session, batches, output))
        found.append(LinearNoise(linear=linear, noise=noise))
        if on_progress is not None:
            on_progress(number, len(plan.linears))
    return tuple(found)


def _only(plan: QuantPlan, linear: Linear, policy: QuantPolicy) -> QuantPolicy:
    others = tuple(item.output for item in plan.linears if item.output != linear.output)
    return replace(policy, keep_float=(*policy.keep_float, *others))


def _answers(session: Runnable, batches: Sequence[Batch], output: str) -> list[NDArray[np.float64]]:
    return [session.run(batch.feeds)[output].astype(np.float64) for batch in batches]


def _noise(
    expected: Sequence[NDArray[np.float64]], answers: Sequence[NDArray[np.float64]]
) -> float:
    pairs = zip(expected, answers, strict=True)
    energy = sum(float(np.square(wanted).sum()) for wanted in expected)
    error = sum(float(np.square(wanted - got).sum()) for wanted, got in pairs)
    return error / energy if energy else error
