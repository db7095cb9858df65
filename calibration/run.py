"""Calibrate: run the float graph on text once, and keep the range of every planned tensor."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ..errors import CalibrationError
from ..graph.model import Graph
from ..passes.qdq.policy import QuantPlan, QuantPolicy
from .ranges.common_scales import with_common_scales
from .ranges.estimators import ESTIMATORS, AbsoluteMaximum
from .ranges.search import Choice, Edge, choose, edges_of
from .statistics.collect import Progress, Taps, collect
from .statistics.profile import TensorProfile
from .statistics.profile_store import ProfileStore
from .table import CalibrationTable, TensorRange
from .text.batches import BATCH_TOKENS
from .text.data import CalibrationSet
from .text.tokenization import Tokenize

AUTO = "auto"
"""Smooth, and clip where that helps; other methods are names of estimators."""

TAP_BYTES = 32 << 20
"""Upper bound of the tapped tensors of one batch, unless a single text needs more."""

RESERVOIR_BYTES = 64 << 20
"""Upper bound of the rows kept of all tensors together."""

_MOST_ROWS, _LEAST_ROWS = 512, 32
_HELD_OUT_SHARE = 8
"""Every so many-th text only decides between candidates while they are compared."""

_FEWEST_TO_COMPARE = 16


def calibrate(
    graph: Graph,
    data: CalibrationSet,
    tokenize: Tokenize,
    *,
    policy: QuantPolicy | None = None,
    method: str = AUTO,
    seed: int = 0,
    threads: int = 0,
    store: ProfileStore | None = None,
    on_progress: Progress | None = None,
) -> CalibrationTable:
    """Give every activation that `policy` wants to quantise a range, and smooth its channels.

    One streaming pass; memory depends on the model and the longest text, not on how many texts
    there are. How strongly channels are smoothed is chosen on texts that the candidates' ranges do
    not come from; the ranges that are returned cover all texts.

    Args:
        graph: the canonical float graph, the very one that Q/DQ will be inserted into.
        data: the texts.
        tokenize: the model's tokenizer.
        policy: which GEMMs to quantise, the default policy when None.
        method: ``auto``, or the name of an estimator for plain ranges of the tensors as they are.
        seed: of the rows that are kept to compare candidates with.
        threads: CPU threads, 0 for all physical cores.
        store: keeps statistics, so that a run that was interrupted goes on and an equal one runs
            nothing; None to keep none.
        on_progress: told after each batch.

    Raises:
        CalibrationError: when there is no such method, the graph has nothing to quantise, an
            activation is NaN or infinite, or text cannot fill the graph's inputs.
    """
    _check_method(method)
    plan = (policy or QuantPolicy()).plan(graph.model)
    _check_plan(plan)
    parts = _parts(data)
    tokens = tap_batch_tokens(plan)
    batches = [part.batches(tokenize, graph.inputs, max_tokens=tokens) for part in parts]
    taps = Taps(
        graph=graph,
        names=plan.activations,
        capacity=reservoir_rows(plan),
        seeds=tuple(seed + number for number in range(len(parts)))[::-1],
        threads=threads,
    )
    counts = [(len(batch.indices), batch.tokens) for part in batches for batch in part]
    # The small part first: the large one is the peak, and the same peak for any number of texts.
    profiles = collect(taps, batches[::-1], store=store, on_progress=on_progress)[::-1]
    ranges = {
        edge.name: _range(edge, [profile[edge.name] for profile in profiles], method)
        for edge in edges_of(graph.model, plan)
    }
    return CalibrationTable(
        method=method,
        texts=sum(texts for texts, _ in counts),
        tokens=sum(tokens for _, tokens in counts),
        source=data.source,
        graph_digest=graph.digest(),
        data_digest=data.digest,
        ranges=with_common_scales(graph.model, plan, ranges),
    )


def reservoir_rows(plan: QuantPlan) -> int:
    """Rows to keep of each tensor so that all of them stay within `RESERVOIR_BYTES`."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, RESERVOIR_BYTES // (4 * _channels(plan))))


def tap_batch_tokens(plan: QuantPlan) -> int:
    """Tokens a batch so that the tapped float32 tensors stay within `TAP_BYTES`."""
    return max(1, min(BATCH_TOKENS, TAP_BYTES // (4 * _channels(plan))))


def _parts(data: CalibrationSet) -> tuple[CalibrationSet, ...]:
    """Texts that give ranges, and texts to compare with; one part when there are few."""
    if len(data.texts) < _FEWEST_TO_COMPARE:
        return (data,)
    return data.split(len(data.texts) // _HELD_OUT_SHARE)


def _range(edge: Edge, parts: Sequence[TensorProfile], method: str) -> TensorRange:
    whole = functools.reduce(TensorProfile.merge, parts)
    absmax = whole.statistics.absmax
    if method != AUTO or not absmax:
        estimator = ESTIMATORS.get(method, AbsoluteMaximum())
        amax = estimator.amax(whole.histogram, absmax)
        return TensorRange(amax, whole.statistics, estimator.name, outlier=whole.outlier)
    choice = Choice()
    if len(parts) > 1:
        choice = choose(edge, parts[0], parts[1].reservoir.sample)
    smoothing = choice.apply(edge, whole)
    return TensorRange(smoothing.amax, whole.statistics, choice.estimator, smoothing, whole.outlier)


def _check_method(method: str) -> None:
    if method != AUTO and method not in ESTIMATORS:
        raise CalibrationError(
            f"calibration method {method!r}: expected {AUTO} or one of {', '.join(ESTIMATORS)}"
        )


def _channels(plan: QuantPlan) -> int:
    """Channels of all planned activations together."""
    return sum({linear.activation: linear.depth for linear in plan.linears}.values())


def _check_plan(plan: QuantPlan) -> None:
    if plan.linears:
        return
    reasons = "; ".join(f"{refusal.node}: {refusal.reason}" for refusal in plan.refusals[:3])
    raise CalibrationError(
        "calibration: expected GEMMs with constant weights to quantise, found none "
        f"({reasons or 'the graph has no MatMul or Gemm'}); use another precision than int8"
    )
