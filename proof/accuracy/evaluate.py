"""Reference and candidates on the user's examples, judged by the metrics of their task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...calibration.evaluation.answers import answer_all
from ...calibration.evaluation.drops import MetricDrop, drops_between
from ...calibration.evaluation.examples import Examples, Judged, make_examples
from ...calibration.evaluation.records import EvaluationFile
from ...compiler.report import environment
from ...engines.bundle import Bundle
from ...engines.text.pipeline import text_pipeline
from ...engines.text.task import TASK_FILE, TaskSpec
from ...errors import BundleError, DeviceError
from ..subjects.as_engine import as_engine, refuse_kept
from ..subjects.base import Subject
from ..subjects.open import SubjectOptions, open_subject, runnable_names

SCHEMA = 1


class Listener(Protocol):
    """Who is told how far the work is."""

    def started(self, stage: str) -> None:
        """A subject is asked."""

    def advanced(self, done: int, total: int) -> None:
        """Examples answered, of all."""

    def ended(self, stage: str, seconds: float) -> None:
        """A subject has answered all."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One candidate.

    Attributes:
        name: of the subject.
        precision: what it computes in, where that is known.
        drops: one for each metric of the task.
        notes: what the user should know of it.
    """

    name: str
    precision: str | None
    drops: tuple[MetricDrop, ...]
    notes: tuple[str, ...] = ()

    def over(self, max_drop: Mapping[str, float]) -> list[MetricDrop]:
        """Metrics that lose more than they may."""
        budgets = ((item, max_drop.get(item.metric)) for item in self.drops)
        return [item for item, budget in budgets if budget is not None and not item.drop <= budget]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of it.

    Attributes:
        reference: name of the subject that others are compared with.
        judgements: one a candidate.
        examples: what was asked.
        left_out: engines that do not run here, and why.
        max_drop: what each metric may lose.
        notes: what makes the figures say less than they seem to.
    """

    reference: str
    judgements: tuple[Judgement, ...]
    examples: Examples = field(repr=False)
    left_out: tuple[str, ...] = ()
    max_drop: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no metric of any candidate loses more than it may."""
        return not any(item.over(self.max_drop) for item in self.judgements)

    def as_json(self) -> dict[str, Any]:
        """The document ``evaluation``; docs/evaluation.md lists its keys."""
        return {
            "schema": SCHEMA,
            "kind": "evaluation",
            "reference": self.reference,
            "passed": self.passed,
            "examples": len(self.examples.inputs),
            "source": self.examples.source,
            "digest": self.examples.digest,
            "candidates": [
                {
                    "name": item.name,
                    "precision": item.precision,
                    "metrics": [self._metric(drop) for drop in item.drops],
                    "notes": list(item.notes),
                }
                for item in self.judgements
            ],
            "left_out": list(self.left_out),
            "notes": list(self.notes),
            "environment": environment(),
        }

    def _metric(self, item: MetricDrop) -> dict[str, Any]:
        budget = self.max_drop.get(item.metric)
        return {
            "metric": item.metric,
            "title": item.title,
            "lower_is_better": item.lower_is_better,
            "reference": item.reference,
            "candidate": item.candidate,
            "drop": item.drop,
            "interval": list(item.interval),
            "max_drop": budget,
            "passed": budget is None or item.drop <= budget,
        }


def evaluate(
    bundle: str | Path,
    data: EvaluationFile,
    *,
    targets: Sequence[str] = (),
    reference: str | None = None,
    max_drop: Mapping[str, float] | None = None,
    options: SubjectOptions | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Ask a bundle's engines, and what they are held to, the same questions.

    Args:
        bundle: folder of the bundle.
        data: examples with what should be answered.
        targets: which of its engines; empty for all that run on this machine.
        reference: any subject that answers text, for example ``torch:minilm``; None for the
            bundle's own float graph, which the build held to the PyTorch model.
        max_drop: what each metric may lose, as it is reported.
        options: how to open subjects.
        listener: told of the progress.

    Raises:
        CalibrationError: when the examples do not fit the task, naming file, line and column.
        BundleError: when the bundle cannot be opened or has no such target.
        DeviceError: when no engine of it runs here.
        FuselageError: as opening the reference does.
    """
    options = options or SubjectOptions()
    opened = Bundle.open(bundle, trust=options.trust)
    spec = TaskSpec.load(opened.path(TASK_FILE))
    judged = Judged(task=spec.task, labels=spec.labels, activation=spec.activation)
    examples = make_examples(data, judged, max_drop or {})
    names, left_out = _candidates(bundle, targets, options)
    asking = _Asking(opened, spec, examples, options, listener)
    answers = [(name, *asking.answers(name)) for name in names]  # may not run: asked first
    wanted, _ = asking.answers(reference or _float_graph(opened))
    judgements = [
        Judgement(
            name=name,
            precision=subject.precision,
            drops=drops_between(examples, wanted, got),
            notes=subject.notes,
        )
        for name, got, subject in answers
    ]
    drops = [item for judgement in judgements for item in judgement.drops]
    doubts = (item.doubt((max_drop or {}).get(item.metric), data.source) for item in drops)
    return Evaluation(
        reference=reference or f"bundle:{bundle}, its float graph",
        judgements=tuple(judgements),
        examples=examples,
        left_out=tuple(left_out),
        max_drop=dict(max_drop or {}),
        notes=(*examples.notes(), *dict.fromkeys(filter(None, doubts))),
    )


def _candidates(
    bundle: str | Path, targets: Sequence[str], options: SubjectOptions
) -> tuple[list[str], list[str]]:
    if targets:
        return [f"bundle:{bundle}#{target}" for target in targets], []
    names, left_out = runnable_names(f"bundle:{bundle}", options)
    if not any("#" in name for name in names):
        raise DeviceError(f"no engine of {bundle} runs here: {'; '.join(left_out)}")
    return names, left_out


def _float_graph(bundle: Bundle) -> str:
    if bundle.source is None:
        raise BundleError(
            "the bundle holds no float graph to compare with; give --reference torch:MODEL"
        )
    return f"ort:{bundle.source}"


class _Asking:
    def __init__(
        self,
        bundle: Bundle,
        spec: TaskSpec,
        examples: Examples,
        options: SubjectOptions,
        listener: Listener | None,
    ) -> None:
        self._bundle, self._spec, self._examples = bundle, spec, examples
        self._options, self._listener = options, listener

    def answers(self, name: str) -> tuple[list[Any], Subject]:
        """One answer an example; the subject is closed."""
        stage, start = f"ask {name}", time.perf_counter()
        listener = self._listener
        if listener is not None:
            listener.started(stage)
        with open_subject(name, self._options) as subject:
            refuse_kept(subject)
            tokenizer = subject.tokenizer or self._bundle.path("tokenizer.json")
            spec = subject.task or self._spec
            engine, advanced = as_engine(subject), None if listener is None else listener.advanced
            with text_pipeline(engine, tokenizer, spec, profile=subject.profile) as runtime:
                found = answer_all(runtime, self._examples, advanced)
        if listener is not None:
            listener.ended(stage, time.perf_counter() - start)
        return found, subject
