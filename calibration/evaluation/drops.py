"""What a model loses against another one on the user's examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics.base import Metric
from ..metrics.paired import drop_interval
from ..metrics.table import METRICS
from .examples import Examples


@dataclass(frozen=True, kw_only=True)
class MetricDrop:
    """A metric of two models on the same examples, as it is reported: in points of 100 mostly.

    Attributes:
        metric: its name.
        title: what exactly it is.
        reference: of the float model.
        candidate: of the other one.
        interval: 95 % of paired resamples have a drop in it.
        examples: how many.
        lower_is_better: whether a rise is a loss.
    """

    metric: str
    title: str
    reference: float
    candidate: float
    interval: tuple[float, float]
    examples: int
    lower_is_better: bool = False

    @property
    def drop(self) -> float:
        """What is lost; below 0 when the candidate is better."""
        lost = self.reference - self.candidate
        return -lost if self.lower_is_better else lost

    def doubt(self, budget: float | None, source: str) -> str | None:
        """Why examples that keep a budget are too few to tell that others would; None when not."""
        low, high = self.interval
        if budget is None or high <= budget or self.drop > budget:
            return None
        return (
            f"{self.metric} loses {self.drop:.2f} on {source}, but on other examples it could be "
            f"anything from {low:.2f} to {high:.2f}, more than the {budget:g} that may be lost; "
            f"{self.examples} examples are too few to be sure"
        )


def drops_between(
    examples: Examples, reference: Sequence[Any], candidate: Sequence[Any]
) -> tuple[MetricDrop, ...]:
    """Judge the answers of two models by every metric of their form.

    Args:
        examples: what was asked.
        reference: answers of the reference, from `answer_all`.
        candidate: answers of the candidate.
    """
    return tuple(_drop(metric, examples, reference, candidate) for metric in METRICS[examples.form])


def _drop(
    metric: Metric, examples: Examples, reference: Sequence[Any], candidate: Sequence[Any]
) -> MetricDrop:
    before = metric.rows(reference, examples.expected)
    after = metric.rows(candidate, examples.expected)
    found = drop_interval(metric, before, after)
    return MetricDrop(
        metric=metric.name,
        title=metric.title,
        reference=metric.scale * metric.value(before),
        candidate=metric.scale * metric.value(after),
        interval=(metric.scale * found.low, metric.scale * found.high),
        examples=len(examples.expected),
        lower_is_better=metric.lower_is_better,
    )
