"""The user's examples in a build: checked before the work starts, reported with what was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...calibration.evaluation.drops import MetricDrop
from ...calibration.evaluation.examples import Examples, Judged, make_examples
from ...calibration.evaluation.records import EvaluationFile
from ...engines.text.task import TaskSpec, activation_of
from ..exporting.tasks import choose_task
from ..models.source import ModelSource
from ..recipe import Request

_UNNAMED_LABELS = 2
"""Labels of a transformers classifier whose config.json names none."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What INT8 loses on the user's examples.

    Attributes:
        drops: of every metric that fits the task.
        source: name of the file.
        digest: of its content.
        max_drop: points that may be lost, by metric.
    """

    drops: tuple[MetricDrop, ...]
    source: str
    digest: str
    max_drop: Mapping[str, float] = field(default_factory=dict)

    def facts(self) -> list[dict[str, Any]]:
        """One entry a metric as ``report.json`` holds it."""
        return [
            {
                "metric": item.metric,
                "title": item.title,
                "reference": round(item.reference, 4),
                "int8": round(item.candidate, 4),
                "drop": round(item.drop, 4),
                "interval": [round(bound, 4) for bound in item.interval],
                "max_drop": self.max_drop.get(item.metric),
                "examples": item.examples,
                "source": self.source,
                "digest": self.digest,
            }
            for item in self.drops
        ]

    def notes(self) -> Iterator[str]:
        """Where the examples are too few to tell whether the budget is met."""
        doubts = (item.doubt(self.max_drop.get(item.metric), self.source) for item in self.drops)
        yield from filter(None, doubts)


def check_examples(request: Request, source: ModelSource) -> None:
    """Read the examples as the model will be asked them, before it is exported.

    Raises:
        CalibrationError: naming file, line and column, or why task and metric do not fit.
        ExportError: when no task fits the model.
    """
    if request.evaluation is not None:
        make_examples(request.evaluation, _judged(source, request.task), request.max_drop)


def examples_for(
    file: EvaluationFile | None, max_drop: Mapping[str, float], spec: TaskSpec
) -> Examples | None:
    """The examples as the exported model is asked them; None without a file."""
    if file is None:
        return None
    judged = Judged(task=spec.task, labels=spec.labels, activation=spec.activation)
    return make_examples(file, judged, max_drop)


def _judged(source: ModelSource, task: str) -> Judged:
    names = source.config.get("id2label") or {}
    count = len(names) or source.config.get("num_labels", _UNNAMED_LABELS)
    labels = tuple(str(names.get(str(at), f"LABEL_{at}")) for at in range(count))
    activation = activation_of(source.config.get("problem_type"), count)
    return Judged(task=choose_task(source, task), labels=labels, activation=activation)
