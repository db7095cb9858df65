"""Quantisation in a build: calibrate on text, insert Q/DQ, measure the damage on held-out text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...calibration.damage.budget import Budget, fit_budget
from ...calibration.damage.quality import Quality
from ...calibration.evaluation.drops import MetricDrop
from ...calibration.evaluation.evaluator import Evaluator
from ...calibration.evaluation.examples import Examples
from ...calibration.statistics.profile_store import ProfileStore
from ...calibration.table import CalibrationTable
from ...calibration.text.data import CalibrationSet, default_corpus
from ...calibration.text.tokenization import Tokenize, tokenize_with
from ...engines.text.encoder import TextEncoder
from ...engines.text.task import TaskSpec
from ...errors import CalibrationError
from ...graph.model import Graph
from ...passes.pipeline import PassPipeline
from ...passes.qdq.lint import lint_qdq
from ...passes.qdq.policy import QuantPlan, QuantPolicy
from ..progress import Journal
from .edges import Edge, edges_of_plan
from .evaluation import Accuracy
from .formats import ranges_of
from .held_out import Findings, examine
from .quantizable import quantizable

_HELD_OUT = 64

_FEW_TEXTS = 64
"""Fewer distinct texts than this are pointed out to the user."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """The quantised form of a graph.

    Attributes:
        graph: the canonical graph with Q/DQ.
        policy: the format.
        plan: the GEMMs that are quantised and why others are not.
        table: their ranges; empty when weights alone are quantised.
        edges: what became of each activation and the GEMMs that read it.
        quality: damage on texts that were not calibrated with; None with fewer than two texts.
        accuracy: what is lost on the user's examples; None without any.
    """

    graph: Graph
    policy: QuantPolicy
    plan: QuantPlan
    table: CalibrationTable
    edges: tuple[Edge, ...]
    quality: Quality | None
    accuracy: Accuracy | None = None


def quantize(
    graph: Graph,
    tokenizer: Path,
    spec: TaskSpec,
    texts: CalibrationSet | None,
    journal: Journal,
    *,
    policy: QuantPolicy | None = None,
    budget: Budget | None = None,
    examples: Examples | None = None,
    threads: int = 0,
    statistics: ProfileStore | None = None,
) -> Quantized:
    """Calibrate and insert Q/DQ.

    Args:
        graph: the canonical float32 graph.
        tokenizer: tokenizer.json.
        spec: the task.
        texts: the user's texts; None takes the corpus that ships with fuselage and says so.
        journal: gets the stages, and notes about the corpus and about statistics kept from before.
        policy: the format; None for linears in INT8.
        budget: damage that is allowed on held-out text and on the examples; None for any.
        examples: of the user, to evaluate the float and the INT8 graph with.
        threads: CPU threads, 0 for all physical cores.
        statistics: keeps what calibration has seen; None to keep nothing.

    Raises:
        CalibrationError: when text or graph give no usable ranges, or the budget cannot be met.
    """
    budget, policy = budget or Budget(), policy or QuantPolicy()
    canonical, graph = graph, quantizable(graph)
    data, held_out = _split(_chosen(texts, policy, journal), budget)
    encoder = TextEncoder(tokenizer, spec)
    tokenize = tokenize_with(encoder)
    table = ranges_of(graph, data, tokenize, policy, journal, threads, statistics)
    for line in table.notes():
        journal.note(line)
    evaluator = _evaluator(graph, tokenizer, spec, examples, journal, threads)
    calibrated = _Calibrated(graph=graph, table=table, policy=policy, evaluator=evaluator)
    if held_out is None:
        form = calibrated.unmeasured()
    else:
        form = calibrated.fitted(held_out, tokenize, budget, journal, threads)
    journal.records += form.graph.history[len(canonical.history) :]
    for found in lint_qdq(form.graph.model, weight_only=policy.weight_only):
        journal.note(f"Q/DQ placement, {found.rule} at {found.node}: {found.reason}")
    token_text = encoder.tokenizer.id_to_token
    return Quantized(
        graph=form.graph,
        policy=policy,
        plan=form.plan,
        table=table,
        edges=edges_of_plan(graph, form.plan, policy.scheme, table, form.findings, token_text),
        quality=form.quality,
        accuracy=None if examples is None else _accuracy(examples, form.drops, budget, journal),
    )


@dataclass(frozen=True, kw_only=True)
class _Form:
    """A graph with Q/DQ.

    Attributes:
        graph: the graph.
        plan: what is quantised in it.
        quality: damage on held-out text; None without such text.
        drops: of the metrics on the user's examples.
        findings: of held-out text.
    """

    graph: Graph
    plan: QuantPlan
    quality: Quality | None = None
    drops: tuple[MetricDrop, ...] = ()
    findings: Findings = field(default_factory=Findings)


@dataclass(frozen=True, kw_only=True)
class _Calibrated:
    """A float graph, its ranges, and who judges what becomes of it; None without examples."""

    graph: Graph
    table: CalibrationTable
    policy: QuantPolicy
    evaluator: Evaluator | None

    def unmeasured(self) -> _Form:
        """Quantise all that is planned: there is no text to hold a budget to."""
        graph = PassPipeline(self.table.passes(self.policy)).run(self.graph)
        drops = () if self.evaluator is None else self.evaluator.drops(graph)
        return _Form(graph=graph, plan=self.policy.plan(self.graph.model), drops=drops)

    def fitted(
        self,
        held_out: CalibrationSet,
        tokenize: Tokenize,
        budget: Budget,
        journal: Journal,
        threads: int,
    ) -> _Form:
        """Quantise as much as the budget allows, measured on text the ranges do not come from."""
        graph, table, policy = self.graph, self.table, self.policy
        findings = examine(graph, table, policy, held_out, tokenize, journal, threads)
        with journal.stage("measure the damage on held-out text"):
            fit = fit_budget(
                graph,
                table,
                held_out.batches(tokenize, graph.inputs),
                budget,
                outputs=[output.name for output in graph.outputs],
                policy=policy,
                evaluator=self.evaluator,
                noises=findings.noises,
                threads=threads,
            )
        return _Form(
            graph=fit.graph, plan=fit.plan, quality=fit.quality, drops=fit.drops, findings=findings
        )


def _split(texts: CalibrationSet, budget: Budget) -> tuple[CalibrationSet, CalibrationSet | None]:
    """Texts to calibrate with, and texts to measure with; None when there is but one text."""
    if len(texts.texts) > 1:
        return texts.split(_HELD_OUT)
    if budget != Budget():
        raise CalibrationError(
            "accuracy budget: expected at least two texts, one to calibrate with and one to "
            f"measure with, got {len(texts.texts)}"
        )
    return texts, None


def _evaluator(
    graph: Graph,
    tokenizer: Path,
    spec: TaskSpec,
    examples: Examples | None,
    journal: Journal,
    threads: int,
) -> Evaluator | None:
    """Answers of the float graph to the user's examples; None without any."""
    if examples is None:
        return None
    with journal.stage("evaluate the float model"):
        return Evaluator(
            graph,
            tokenizer,
            spec,
            examples,
            threads=threads,
            on_progress=journal.listener.advanced,
        )


def _accuracy(
    examples: Examples, drops: tuple[MetricDrop, ...], budget: Budget, journal: Journal
) -> Accuracy:
    """What was lost, with a note where the examples are too few to tell."""
    accuracy = Accuracy(
        drops=drops, source=examples.source, digest=examples.digest, max_drop=budget.max_drop
    )
    for line in (*examples.notes(), *accuracy.notes()):
        journal.note(line)
    return accuracy


def _chosen(texts: CalibrationSet | None, policy: QuantPolicy, journal: Journal) -> CalibrationSet:
    """The user's texts or ours, with a note where that may cost accuracy."""
    if policy.weight_only:
        return texts or default_corpus()  # nothing but to measure with
    if texts is None:
        texts = default_corpus()
        journal.note(
            f"calibrated on the {len(texts.texts)} texts that ship with fuselage; "
            "your own text (--text FILE) gives ranges that fit your data"
        )
    elif len(texts.texts) < _FEW_TEXTS:
        noun = "text" if len(texts.texts) == 1 else "texts"
        journal.note(
            f"calibrated on {len(texts.texts)} distinct {noun} of {texts.source}, which may "
            f"miss what other text needs; give at least {_FEW_TEXTS}, one a line"
        )
    return texts
