"""What a graph loses against the float one on the user's examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engines.text.pipeline import text_pipeline
from ...engines.text.task import TaskSpec
from ...graph.model import Graph
from ..metrics.base import Metric
from ..metrics.paired import drop_interval
from ..metrics.table import METRICS
from .answers import Progress, answer_all
from .examples import Examples
from .graph_engine import GraphEngine


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


class Evaluator:
    """Holds the answers of the float graph, which others are compared with.

    Attributes:
        examples: what is asked.

    Args:
        graph: the float graph.
        tokenizer: tokenizer.json.
        spec: the task.
        examples: made for that task.
        threads: CPU threads, 0 for all physical cores.
        on_progress: called with (inputs answered, inputs in all).

    Raises:
        CalibrationError: when ONNX Runtime cannot run the graph, or a text cannot be asked.
    """

    def __init__(
        self,
        graph: Graph,
        tokenizer: Path,
        spec: TaskSpec,
        examples: Examples,
        *,
        threads: int = 0,
        on_progress: Progress | None = None,
    ) -> None:
        self.examples = examples
        self._tokenizer, self._spec = tokenizer, spec
        self._threads, self._on_progress = threads, on_progress
        self._reference = self._answers(graph)

    def drops(self, graph: Graph) -> tuple[MetricDrop, ...]:
        """Answer the examples with another graph and compare."""
        return drops_between(self.examples, self._reference, self._answers(graph))

    def _answers(self, graph: Graph) -> list[Any]:
        engine = GraphEngine(graph, threads=self._threads)
        with text_pipeline(engine, self._tokenizer, self._spec) as runtime:
            return answer_all(runtime, self.examples, self._on_progress)
