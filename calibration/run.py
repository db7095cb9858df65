"""Calibrate: run the float graph on text once, and keep the range of every planned tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..errors import CalibrationError
from ..graph.model import Graph
from ..passes.qdq.policy import QuantPlan, QuantPolicy
from .data import BATCH_TOKENS, Batch, CalibrationSet, Tokenize
from .estimators import AbsoluteMaximum, Estimator
from .session import GraphSession
from .statistics import TensorStatistics
from .table import CalibrationTable, TensorRange

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all) after every batch."""

TAP_BYTES = 64 << 20
"""Upper bound of the tapped tensors of one batch, unless a single text needs more."""


def calibrate(
    graph: Graph,
    data: CalibrationSet,
    tokenize: Tokenize,
    *,
    policy: QuantPolicy | None = None,
    estimator: Estimator | None = None,
    threads: int = 0,
    on_progress: Progress | None = None,
) -> CalibrationTable:
    """Give every activation that `policy` wants to quantise a range.

    One streaming pass; memory depends on the longest text, not on how many there are.

    Args:
        graph: the canonical float graph, the very one that Q/DQ will be inserted into.
        data: the texts.
        tokenize: the model's tokenizer.
        policy: which GEMMs to quantise, the default policy when None.
        estimator: absolute maximum when None.
        threads: CPU threads, 0 for all physical cores.
        on_progress: told after each batch.

    Raises:
        CalibrationError: when the graph has nothing to quantise, an activation is NaN or
            infinite, or text cannot fill the graph's inputs.
    """
    estimator = estimator or AbsoluteMaximum()
    plan = (policy or QuantPolicy()).plan(graph.model)
    _check_plan(plan)
    taps = plan.activations
    batches = data.batches(tokenize, graph.inputs, max_tokens=tap_batch_tokens(plan))
    with GraphSession(graph, taps, threads) as session:
        found = collect(session, batches, taps, on_progress)
    return CalibrationTable(
        method=estimator.name,
        texts=sum(len(batch.indices) for batch in batches),
        tokens=sum(batch.tokens for batch in batches),
        source=data.source,
        graph_digest=graph.digest(),
        data_digest=data.digest,
        ranges={name: TensorRange(estimator.amax(found[name]), found[name]) for name in taps},
    )


def collect(
    session: GraphSession,
    batches: Sequence[Batch],
    taps: Iterable[str],
    on_progress: Progress | None = None,
) -> dict[str, TensorStatistics]:
    """Run all batches and merge what each tapped tensor held.

    Raises:
        CalibrationError: when an activation is NaN or infinite.
    """
    names = tuple(taps)
    total, done = sum(len(batch.indices) for batch in batches), 0
    found: dict[str, TensorStatistics] = {}
    for batch in batches:
        outputs = session.run(batch.feeds, names)
        for name in names:
            seen = TensorStatistics.of(name, outputs.pop(name))
            found[name] = found[name].merge(seen) if name in found else seen
        done += len(batch.indices)
        if on_progress is not None:
            on_progress(done, total)
    return found


def tap_batch_tokens(plan: QuantPlan) -> int:
    """Tokens a batch so that the tapped float32 tensors stay within `TAP_BYTES`."""
    channels = {linear.activation: linear.depth for linear in plan.linears}
    return max(1, min(BATCH_TOKENS, TAP_BYTES // (4 * sum(channels.values()))))


def _check_plan(plan: QuantPlan) -> None:
    if plan.linears:
        return
    reasons = "; ".join(f"{refusal.node}: {refusal.reason}" for refusal in plan.refusals[:3])
    raise CalibrationError(
        "calibration: expected GEMMs with constant weights to quantise, found none "
        f"({reasons or 'the graph has no MatMul or Gemm'}); use another precision than int8"
    )
