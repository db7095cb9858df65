"""Stay within an accuracy budget: leave in float what harms most for what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...errors import CalibrationError
from ...graph.history import Refusal
from ...graph.model import Graph
from ...passes.pipeline import PassPipeline
from ...passes.qdq.policy import QuantPlan, QuantPolicy
from ..evaluation.drops import MetricDrop
from ..evaluation.evaluator import Evaluator
from ..session import GraphSession
from ..table import CalibrationTable
from ..text.batches import Batch
from .quality import Quality, measure_quality
from .sensitivity import LinearNoise, linear_noises

RULE = "accuracy-budget"

_ROUNDS = 6
"""Choices tried: each one is measured, and corrects the prediction of the next."""

_LEAST_SHARE = 0.25
"""A drop of a metric follows the noise too loosely to ask for less of it at once."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much damage is allowed, measured on texts that ranges do not come from.

    Attributes:
        min_sqnr_db: least ratio of signal to noise, in decibel.
        min_cosine: least cosine of any output vector.
        max_drop: most points of 100 that a metric may lose on the user's examples, by its name.
    """

    min_sqnr_db: float | None = None
    min_cosine: float | None = None
    max_drop: Mapping[str, float] = field(default_factory=dict)

    def shortfall(self, quality: Quality, drops: Sequence[MetricDrop] = ()) -> str | None:
        """What misses the budget, None when nothing does."""
        if self.min_sqnr_db is not None and quality.sqnr_db < self.min_sqnr_db:
            return f"SQNR {quality.sqnr_db:.2f} dB is below {self.min_sqnr_db:g} dB"
        if self.min_cosine is not None and quality.cosine_min < self.min_cosine:
            return f"least cosine {quality.cosine_min:.4f} is below {self.min_cosine:g}"
        for item in self._exceeding(drops):
            return (
                f"{item.metric} drops by {item.drop:.2f} points ({item.reference:.2f} to "
                f"{item.candidate:.2f}), more than {self.max_drop[item.metric]:g}"
            )
        return None

    def _exceeding(self, drops: Sequence[MetricDrop]) -> list[MetricDrop]:
        return [item for item in drops if item.drop > self.max_drop.get(item.metric, np.inf)]

    def allowed_share(self, quality: Quality, drops: Sequence[MetricDrop] = ()) -> float:
        """To which part of itself the noise has to fall, by energy; at most 1.

        ``1 - cosine`` of vectors that are close is half their relative noise energy. A metric
        falls with the noise energy too, where it falls at all and not by chance.
        """
        share = 1.0
        if self.min_sqnr_db is not None:
            share = min(share, 10 ** ((quality.sqnr_db - self.min_sqnr_db) / 10))
        if self.min_cosine is not None and quality.cosine_min < 1:
            share = min(share, (1 - self.min_cosine) / (1 - quality.cosine_min))
        for item in self._exceeding(drops):
            share = min(share, max(_LEAST_SHARE, self.max_drop[item.metric] / item.drop))
        return share


@dataclass(frozen=True, kw_only=True)
class Fit:
    """An INT8 graph that was measured.

    Attributes:
        graph: with Q/DQ.
        plan: what is INT8 and why the rest is not.
        quality: how close it is.
        drops: of the metrics; empty without examples, or where the quality alone misses the budget.
    """

    graph: Graph
    plan: QuantPlan
    quality: Quality
    drops: tuple[MetricDrop, ...] = ()


def fit_budget(
    graph: Graph,
    table: CalibrationTable,
    batches: Sequence[Batch],
    budget: Budget,
    *,
    outputs: Sequence[str],
    policy: QuantPolicy | None = None,
    evaluator: Evaluator | None = None,
    noises: Sequence[LinearNoise] = (),
    threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Put all planned linears into INT8, or as many as the budget allows.

    Args:
        graph: the float graph that was calibrated.
        table: its ranges.
        batches: of texts that the ranges do not come from.
        budget: what is allowed.
        outputs: names of the outputs that count.
        policy: the one calibrated with.
        evaluator: asks the user's examples; needed for a budget with `max_drop`.
        noises: of all planned linears where they are known; measured when they are needed else.
        threads: CPU threads, 0 for all physical cores.
        on_progress: called with (linears done, linears in all) when each is measured alone.

    Raises:
        CalibrationError: when no choice meets the budget, with the closest one.
    """
    if budget.max_drop and evaluator is None:
        raise CalibrationError("accuracy budget: a drop of a metric is measured with examples")
    policy = policy or QuantPolicy()

    def measured(chosen: Sequence[LinearNoise]) -> Fit:
        names = tuple(item.linear.output for item in chosen)
        kept = replace(policy, keep_float=(*policy.keep_float, *names))
        fit = _measure(graph, table, batches, outputs, kept, threads)
        if evaluator is None or budget.shortfall(fit.quality) is not None:
            return fit
        return replace(fit, drops=evaluator.drops(fit.graph))

    fit = measured(())
    if budget.shortfall(fit.quality, fit.drops) is None:
        return fit
    found = noises or linear_noises(
        graph,
        table,
        batches,
        outputs=outputs,
        policy=policy,
        threads=threads,
        on_progress=on_progress,
    )
    return _search(fit, found, budget, measured)


def _search(
    fit: Fit,
    noises: Sequence[LinearNoise],
    budget: Budget,
    measured: Callable[[Sequence[LinearNoise]], Fit],
) -> Fit:
    """Leave more and more linears in float until the budget is met."""
    share = 1.0
    chosen: tuple[LinearNoise, ...] = ()
    tried = [(fit, 0)]
    for _ in range(_ROUNDS):
        share *= budget.allowed_share(fit.quality, fit.drops)
        chosen = choose_float(noises, share, at_least=len(chosen) + 1)
        if len(chosen) == len(noises):
            break
        fit = measured(chosen)
        tried.append((fit, len(chosen)))
        if budget.shortfall(fit.quality, fit.drops) is None:
            return replace(fit, plan=_explained(fit.plan, chosen, noises))
    closest, kept = min(reversed(tried), key=lambda item: _excess(budget, item[0]))
    raise CalibrationError(
        f"accuracy budget: {budget.shortfall(closest.quality, closest.drops)} with {kept} of "
        f"{len(noises)} linears left in float, the closest of {len(tried)} tried; calibrate on "
        "more text like yours, ask for less, or use fp16 or fp32"
    )


def _excess(budget: Budget, fit: Fit) -> tuple[bool, float]:
    """How far a choice is from the budget; those whose metrics were not measured come last."""
    over = [item.drop - budget.max_drop.get(item.metric, np.inf) for item in fit.drops]
    return bool(budget.max_drop) and not fit.drops, max(over, default=0.0)


def choose_float(
    noises: Sequence[LinearNoise], allowed_share: float, *, at_least: int = 0
) -> tuple[LinearNoise, ...]:
    """The linears to leave in float so that the rest makes at most a share of the noise.

    Greedy: the largest noise a MAC first; then those that turn out not to be needed go back.

    Args:
        noises: of all linears in INT8.
        allowed_share: of the sum of their noises.
        at_least: how many to leave in float in any case.

    Returns:
        Chosen linears, the most harmful for its size first.

    Raises:
        CalibrationError: when the share is not positive.
    """
    if not allowed_share > 0:
        raise CalibrationError(
            f"accuracy budget: the noise would have to fall to {allowed_share:g} of itself; "
            "no INT8 graph can do that, use another precision"
        )
    total = sum(item.noise for item in noises)
    too_much = total * (1 - allowed_share)
    chosen: list[LinearNoise] = []
    for item in sorted(noises, key=lambda item: item.noise_per_mac, reverse=True):
        if too_much <= 0 and len(chosen) >= at_least:
            break
        chosen.append(item)
        too_much -= item.noise
    for item in sorted(chosen, key=lambda item: item.noise):
        if too_much + item.noise <= 0 and len(chosen) > at_least:
            chosen.remove(item)
            too_much += item.noise
    return tuple(chosen)


def _measure(
    graph: Graph,
    table: CalibrationTable,
    batches: Sequence[Batch],
    outputs: Sequence[str],
    policy: QuantPolicy,
    threads: int,
) -> Fit:
    quantized = PassPipeline(table.passes(policy)).run(graph)
    with (
        GraphSession(graph, threads=threads) as reference,
        GraphSession(quantized, threads=threads) as candidate,
    ):
        quality = measure_quality(reference, candidate, batches, outputs=outputs)
    return Fit(graph=quantized, plan=policy.plan(graph.model), quality=quality)


def _explained(
    plan: QuantPlan, chosen: Sequence[LinearNoise], noises: Sequence[LinearNoise]
) -> QuantPlan:
    """The plan with the reason for each linear that the budget leaves in float."""
    total = sum(item.noise for item in noises)
    shares = {item.linear.node: item.noise / total for item in chosen}
    refusals = tuple(
        Refusal(
            RULE,
            refusal.node,
            f"left in float for the accuracy budget: it makes {shares[refusal.node]:.1%} of the "
            "noise in the answer",
        )
        if refusal.node in shares
        else refusal
        for refusal in plan.refusals
    )
    return replace(plan, refusals=refusals)
