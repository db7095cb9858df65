"""Stay within an accuracy budget: leave in float what harms most for what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import CalibrationError
from ..graph.history import Refusal
from ..graph.model import Graph
from ..passes.pipeline import PassPipeline
from ..passes.qdq.policy import QuantPlan, QuantPolicy
from .data import Batch
from .quality import Quality, measure_quality
from .sensitivity import LinearNoise, linear_noises
from .session import GraphSession
from .table import CalibrationTable

RULE = "accuracy-budget"

_ROUNDS = 6
"""Choices tried: each one is measured, and corrects the prediction of the next."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much damage is allowed, measured on texts that ranges do not come from.

    Attributes:
        min_sqnr_db: least ratio of signal to noise, in decibel.
        min_cosine: least cosine of any output vector.
    """

    min_sqnr_db: float | None = None
    min_cosine: float | None = None

    def shortfall(self, quality: Quality) -> str | None:
        """What misses the budget, None when nothing does."""
        if self.min_sqnr_db is not None and quality.sqnr_db < self.min_sqnr_db:
            return f"SQNR {quality.sqnr_db:.2f} dB is below {self.min_sqnr_db:g} dB"
        if self.min_cosine is not None and quality.cosine_min < self.min_cosine:
            return f"least cosine {quality.cosine_min:.4f} is below {self.min_cosine:g}"
        return None

    def allowed_share(self, quality: Quality) -> float:
        """To which part of itself the noise has to fall, by energy; at most 1.

        ``1 - cosine`` of vectors that are close is half their relative noise energy.
        """
        share = 1.0
        if self.min_sqnr_db is not None:
            share = min(share, 10 ** ((quality.sqnr_db - self.min_sqnr_db) / 10))
        if self.min_cosine is not None and quality.cosine_min < 1:
            share = min(share, (1 - self.min_cosine) / (1 - quality.cosine_min))
        return share


@dataclass(frozen=True, kw_only=True)
class Fit:
    """An INT8 graph that was measured.

    Attributes:
        graph: with Q/DQ.
        plan: what is INT8 and why the rest is not.
        quality: how close it is.
    """

    graph: Graph
    plan: QuantPlan
    quality: Quality


def fit_budget(
    graph: Graph,
    table: CalibrationTable,
    batches: Sequence[Batch],
    budget: Budget,
    *,
    output: str,
    policy: QuantPolicy | None = None,
    threads: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Put all planned linears into INT8, or as many as the budget allows.

    Args:
        graph: the float graph that was calibrated.
        table: its ranges.
        batches: of texts that the ranges do not come from.
        budget: what is allowed.
        output: name of the output that counts.
        policy: the one calibrated with.
        threads: CPU threads, 0 for all physical cores.
        on_progress: called with (linears done, linears in all) when each is measured alone.

    Raises:
        CalibrationError: when no choice meets the budget, with the closest one.
    """
    policy = policy or QuantPolicy()
    fit = _measure(graph, table, batches, output, policy, threads)
    if budget.shortfall(fit.quality) is None:
        return fit
    noises = linear_noises(
        graph,
        table,
        batches,
        output=output,
        policy=policy,
        threads=threads,
        on_progress=on_progress,
    )
    share, before = 1.0, 0
    for _ in range(_ROUNDS):
        share *= budget.allowed_share(fit.quality)
        chosen = choose_float(noises, share, at_least=before + 1)
        if len(chosen) == len(noises):
            break
        before = len(chosen)
        outputs = tuple(item.linear.output for item in chosen)
        kept = replace(policy, keep_float=(*policy.keep_float, *outputs))
        fit = _measure(graph, table, batches, output, kept, threads)
        if budget.shortfall(fit.quality) is None:
            return replace(fit, plan=_explained(fit.plan, chosen, noises))
    raise CalibrationError(
        f"accuracy budget: {budget.shortfall(fit.quality)} with {before} of {len(noises)} linears "
        f"left in float, and leaving out {len(chosen)} is the next choice; calibrate on more text "
        "like yours, ask for less, or use fp16 or fp32"
    )


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
    output: str,
    policy: QuantPolicy,
    threads: int,
) -> Fit:
    quantized = PassPipeline(table.passes(policy)).run(graph)
    with (
        GraphSession(graph, threads=threads) as reference,
        GraphSession(quantized, threads=threads) as candidate,
    ):
        quality = measure_quality(reference, candidate, batches, output=output)
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
