"""Run passes in order; keep what is sound, roll back what is not, record both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import onnx_ir as ir

from ..errors import PassError
from ..graph.history import Refusal, StageRecord
from ..graph.model import Graph
from .base import EXACT, Pass, PassResult
from .validate import first_defect, layout

Verify = Literal["each", "final", "off"]
"""When numbers are compared: after every pass, after the last one, never."""


class Check(Protocol):
    """Compares rewritten graphs by numbers with the graph the pipeline started from."""

    def __call__(self, graph: Graph, step: Pass) -> str | None:
        """Why the numbers are off, None when they agree."""

    def restart(self, graph: Graph, step: Pass) -> None:
        """Compare with this graph from now on: the pass may change numbers as it likes."""


@dataclass(frozen=True)
class PassPipeline:
    """An ordered list of passes.

    Attributes:
        passes: run first to last, each on a clone, so the graph given to `run` never changes.
        check: compares numbers with the graph the pipeline started from; None checks the
            structure alone.
        on_record: told about every pass as it ends, for progress displays.
        verify: when `check` is asked. The structure is checked after every pass in any case.
    """

    passes: tuple[Pass, ...]
    check: Check | None = None
    on_record: Callable[[StageRecord], None] | None = None
    verify: Verify = "each"

    def run(self, graph: Graph) -> Graph:
        """Apply every pass.

        A pass whose result is malformed or gives other numbers is rolled back and the reason
        recorded; the following passes see the graph as it was before. With ``final``, numbers are
        compared once, and again after each roll-back until they agree; the pass that is off is
        found by bisection over the graphs between the passes. A pass that may lose digits, or
        change numbers freely, stands by itself: those after it are compared with what it left.

        Raises:
            PassError: when a required pass (one the asked precision depends on) fails.
        """
        with _collecting_rarely() as collect:
            return self._run(graph, collect)

    def _run(self, graph: Graph, collect: Callable[[int], None]) -> Graph:
        check = None if self.verify == "off" else self.check
        scratch: Scratch | None = None
        for group in groups(self.passes, together=self.verify == "final"):
            collect(len(graph.model.graph))
            stages = _sound_stages(group, graph, check, scratch)
            records = [stage.record() for stage in stages]
            if self.on_record is not None:
                for record in records:
                    self.on_record(record)
            last = stages[-1]
            scratch = last.scratch
            graph = Graph(last.after.model, (*graph.history, *records))
            if check is not None and last.changed and last.step.tolerance is None:
                check.restart(graph, last.step)
        return graph


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One pass and the graphs before and after it.

    Attributes:
        step: the pass.
        before: the graph it was given.
        after: what it made of it; `before` itself when nothing changed or it was rolled back.
        seconds: what pass and structural check took.
        outcome: what the pass reported, None when it failed.
        problem: why the result was thrown away, None when it was kept.
        error: what the pass raised, None when it returned.
        scratch: the clone the pass ran on, and its layout, when it left that untouched.
    """

    step: Pass
    before: Graph
    after: Graph
    seconds: float
    outcome: PassResult | None
    problem: str | None
    error: Exception | None = None
    scratch: Scratch | None = None

    @property
    def changed(self) -> bool:
        """Whether the pass made another graph and it was kept."""
        return self.after is not self.before

    def rolled_back(self, problem: str) -> Stage:
        """The same stage without its effect.

        Raises:
            PassError: when the pass is required.
        """
        if self.step.required:
            raise PassError(f"pass {self.step.spec}: {problem}") from self.error
        return Stage(
            step=self.step,
            before=self.before,
            after=self.before,
            seconds=self.seconds,
            outcome=self.outcome,
            problem=problem,
            error=self.error,
        )

    def record(self) -> StageRecord:
        """The stage as history and report have it."""
        return StageRecord(
            stage=self.step.spec,
            seconds=self.seconds,
            nodes_before=len(self.before.model.graph),
            nodes_after=len(self.after.model.graph),
            rewrites=self.outcome.rewrites if self.outcome is not None and self.changed else 0,
            refusals=() if self.outcome is None else self.outcome.refusals,
            rolled_back=self.problem,
        )


def attempt(step: Pass, graph: Graph, scratch: Scratch | None = None) -> Stage:
    """Run one pass on a clone and check the structure of what it leaves, not its numbers.

    A stage with a `problem` still has the broken graph in `after`, for those who look into it.

    Args:
        step: the pass.
        graph: what it is given; never changed.
        scratch: a clone of the graph that nothing was done to, since cloning costs more than most
            passes.
    """
    start = time.perf_counter()
    candidate, before = scratch or _scratch(graph)
    outcome, problem, error = _call(step, candidate.model)
    modified = outcome is not None and outcome.modified
    untouched = not modified and layout(candidate.model) == before
    if modified:
        problem = first_defect(candidate.model)
    return Stage(
        step=step,
        before=graph,
        after=candidate if modified else graph,
        seconds=time.perf_counter() - start,
        outcome=outcome,
        problem=problem,
        error=error,
        scratch=(candidate, before) if untouched else None,
    )


Scratch = tuple[Graph, list[object]]
"""A clone for a pass to work on, and what it is made of."""


def _scratch(graph: Graph) -> Scratch:
    clone = graph.clone()
    return clone, layout(clone.model)


def groups(passes: Sequence[Pass], *, together: bool) -> Iterator[tuple[Pass, ...]]:
    """Passes whose numbers are compared at once: runs of exact ones when `together`, else each."""
    run: list[Pass] = []
    for step in passes:
        exact = step.tolerance is not None and step.tolerance <= EXACT
        if run and not (together and exact):
            yield tuple(run)
            run = []
        if together and exact:
            run.append(step)
        else:
            yield (step,)
    if run:
        yield tuple(run)


def first_off(stages: Sequence[Stage], check: Check) -> tuple[int, str] | None:
    """Index of a pass after which the numbers are off, while before it they agree, and the reason.

    Asks once when they agree in the end, and log2 of the number of passes times more when not.
    """
    changed = [index for index, stage in enumerate(stages) if stage.changed]
    if not changed or stages[changed[-1]].step.tolerance is None:
        return None
    sound, off = -1, len(changed) - 1
    reason = _judge(stages[changed[off]], check)
    if reason is None:
        return None
    while off - sound > 1:
        middle = (sound + off) // 2
        found = _judge(stages[changed[middle]], check)
        if found is None:
            sound = middle
        else:
            off, reason = middle, found
    return changed[off], reason


def _judge(stage: Stage, check: Check) -> str | None:
    return check(stage.after, stage.step)


def _sound_stages(
    group: Sequence[Pass], graph: Graph, check: Check | None, scratch: Scratch | None
) -> list[Stage]:
    stages: list[Stage] = []
    while True:
        for step in group[len(stages) :]:
            last = stages[-1] if stages else None
            given, clone = (graph, scratch) if last is None else (last.after, last.scratch)
            stage = attempt(step, given, clone)
            stages.append(stage if stage.problem is None else stage.rolled_back(stage.problem))
        scratch = None  # used up: what a later round starts from is cloned again
        found = None if check is None else first_off(stages, check)
        if found is None:
            return stages
        index, reason = found
        stages[index:] = [stages[index].rolled_back(reason)]


_NODES_BETWEEN_COLLECTIONS = 50_000


@contextmanager
def _collecting_rarely() -> Iterator[Callable[[int], None]]:
    """Look for garbage once in so many cloned nodes, told to what is yielded.

    Clones are cycles of many small objects. Python looks through all of them every few hundred new
    ones, which took more than half of the time of a run (0.67 of 0.97 s for 1,041 nodes).
    """
    enabled, pending = gc.isenabled(), 0

    def collect(nodes: int) -> None:
        nonlocal pending
        pending += nodes
        if pending > _NODES_BETWEEN_COLLECTIONS:
            gc.collect()
            pending = 0

    gc.disable()
    try:
        yield collect
    finally:
        if enabled:
            gc.enable()


def _without_name(step: Pass, error: BaseException) -> str:
    """The message of an error; what quotes it names the pass itself."""
    return str(error).removeprefix(f"pass {step.name}: ")


def _call(step: Pass, model: ir.Model) -> tuple[PassResult | None, str | None, Exception | None]:
    """The result, or why there is none."""
    try:
        outcome = step(model)
    except ir.passes.PreconditionError as error:
        reason = _without_name(step, error.__cause__ or error)
        if step.required:
            return None, reason, error
        return PassResult(model, False, 0, (Refusal(step.name, "", reason),)), None, None
    except PassError as error:
        return None, _without_name(step, error), error
    except Exception as error:  # a faulty pass must not take the build down
        return None, f"it raised {type(error).__name__}: {error}", error
    assert isinstance(outcome, PassResult)
    return outcome, None, None
