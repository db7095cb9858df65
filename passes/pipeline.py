"""Run passes in order; keep what is sound, roll back what is not, record both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from ..errors import PassError
from ..graph.history import Refusal, StageRecord
from ..graph.model import Graph
from .base import Pass, PassResult
from .validate import first_defect

Check = Callable[[Graph, Pass], str | None]
"""Compares a rewritten graph by numbers; the reason when they are off, None when they agree."""


@dataclass(frozen=True)
class PassPipeline:
    """An ordered list of passes.

    Attributes:
        passes: run first to last, each on a clone, so the graph given to `run` never changes.
        check: called after each pass that modified the graph; None checks the structure alone.
        on_record: told about every stage as it ends, for progress displays.
    """

    passes: tuple[Pass, ...]
    check: Check | None = None
    on_record: Callable[[StageRecord], None] | None = None

    def run(self, graph: Graph) -> Graph:
        """Apply every pass.

        A pass whose result is malformed or gives other numbers is rolled back and the reason
        recorded; the following passes see the graph as it was before.

        Raises:
            PassError: when a required pass (one the asked precision depends on) fails.
        """
        for step in self.passes:
            graph, record = self._apply(step, graph)
            graph = graph.with_record(record)
            if self.on_record is not None:
                self.on_record(record)
        return graph

    def _apply(self, step: Pass, graph: Graph) -> tuple[Graph, StageRecord]:
        start = time.perf_counter()
        candidate = graph.clone()
        outcome, problem = _attempt(step, candidate.model)
        if outcome is not None and outcome.modified:
            problem = first_defect(candidate.model)
            if problem is None and self.check is not None and step.tolerance is not None:
                problem = self.check(candidate, step)
        if problem is not None and step.required:
            raise PassError(f"pass {step.spec}: {problem}")
        kept = candidate if problem is None and outcome is not None and outcome.modified else graph
        record = StageRecord(
            stage=step.spec,
            seconds=time.perf_counter() - start,
            nodes_before=len(graph.model.graph),
            nodes_after=len(kept.model.graph),
            rewrites=0 if outcome is None or kept is graph else outcome.rewrites,
            refusals=() if outcome is None else outcome.refusals,
            rolled_back=problem,
        )
        return kept, record


def _attempt(step: Pass, model: ir.Model) -> tuple[PassResult | None, str | None]:
    """The result, or why there is none."""
    try:
        outcome = step(model)
    except ir.passes.PreconditionError as error:
        reason = str(error.__cause__ or error)
        if step.required:
            return None, reason
        return PassResult(model, False, 0, (Refusal(step.name, "", reason),)), None
    except PassError as error:
        return None, str(error)
    except Exception as error:  # a faulty pass must not take the build down
        return None, f"it raised {type(error).__name__}: {error}"
    assert isinstance(outcome, PassResult)
    return outcome, None
