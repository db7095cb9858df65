"""Find the first pass that breaks a graph, and the node whose output is the first to differ."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ...graph.model import Graph
from ...passes.base import Pass
from ...passes.pipeline import Stage, attempt, first_off, groups
from .check_pass import NumberCheck
from .locate import Difference, first_difference
from .sampling import Sample
from .widen import widen_halves

Fault = Literal["raises", "malformed", "numbers"]


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """The first pass after which something is wrong.

    Attributes:
        name: its spec.
        place: its number in the list of passes, from 1.
        of: how many passes there are.
        fault: whether it raised, left a malformed graph, or gave other numbers.
        reason: what was wrong.
        source: file and line at which it raised, else None.
        before: the graph it was given.
        after: the graph it left; for a pass that raised, the one it was given.
        sample: on which the numbers differ first, else None.
        difference: the first value that differs, None when no inner value could be compared.
    """

    name: str
    place: int
    of: int
    fault: Fault
    reason: str
    source: str | None
    before: Graph
    after: Graph
    sample: Sample | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Verdict:
    """What a bisection came to.

    Attributes:
        culprit: None when every pass is sound.
        not_checked: why numbers were not compared from some pass on, None when they were.
    """

    culprit: Culprit | None
    not_checked: str | None


def bisect(
    graph: Graph, canonical: tuple[Pass, ...], lowering: tuple[Pass, ...] = (), threads: int = 0
) -> Verdict:
    """Run passes without any roll-back until something is wrong.

    Args:
        graph: what the passes start from; it never changes.
        canonical: the passes that make it canonical.
        lowering: those behind them. They are held to the canonical graph.
        threads: CPU threads of the comparison, 0 for all physical cores.
    """
    of = len(canonical) + len(lowering)
    not_checked: str | None = None
    place = 0
    for passes, is_lowering in ((canonical, False), (lowering, True)):
        if not passes:
            continue
        check = NumberCheck(graph, threads=threads, canonical=is_lowering)
        for group in groups(passes, together=True):
            stages = _until_problem(group, graph)
            culprit = _culprit(stages, check, place, of, threads)
            not_checked = not_checked or check.not_checked
            if culprit is not None:
                return Verdict(culprit, not_checked)
            place, last = place + len(stages), stages[-1]
            graph = last.after
            if last.changed and last.step.tolerance is None:
                check.restart(graph, last.step)
                not_checked = not_checked or check.not_checked
    return Verdict(None, not_checked)


def _until_problem(group: tuple[Pass, ...], graph: Graph) -> list[Stage]:
    stages: list[Stage] = []
    for step in group:
        stages.append(attempt(step, stages[-1].after if stages else graph))
        if stages[-1].problem is not None:
            break
    return stages


def _culprit(
    stages: list[Stage], check: NumberCheck, place: int, of: int, threads: int
) -> Culprit | None:
    """The numbers first: a pass may raise because of what an earlier one did to the graph."""
    sound = [stage for stage in stages if stage.problem is None]
    found = first_off(sound, check)
    if found is not None:
        index, reason = found
        stage = stages[index]
        sample, difference = _look_inside(stage, check, threads)
        return Culprit(
            name=stage.step.spec,
            place=place + index + 1,
            of=of,
            fault="numbers",
            reason=reason,
            source=None,
            before=stage.before,
            after=stage.after,
            sample=sample,
            difference=difference,
        )
    last = stages[-1]
    if last.problem is None:
        return None
    return Culprit(
        name=last.step.spec,
        place=place + len(stages),
        of=of,
        fault="malformed" if last.error is None else "raises",
        reason=last.problem,
        source=None if last.error is None else _source(last.error),
        before=last.before,
        after=last.after,
    )


def _look_inside(
    stage: Stage, check: NumberCheck, threads: int
) -> tuple[Sample | None, Difference | None]:
    tolerance = stage.step.tolerance
    assert tolerance is not None
    before, after, judge = stage.before, stage.after, check
    if check.wide is not None:
        before, after, judge = widen_halves(before), widen_halves(after), check.wide
    for answer in judge.expected:
        difference = first_difference(before, after, answer.sample, tolerance, threads=threads)
        if difference is not None:
            return _as_declared(answer.sample, stage.before), difference
    return None, None


def _as_declared(sample: Sample, graph: Graph) -> Sample:
    """The sample in the dtypes that the graph takes; the comparison may have been in float32."""
    dtypes = {spec.name: spec.dtype for spec in graph.inputs}
    feeds = {
        name: array.astype(np.float16) if dtypes[name] == "float16" else array
        for name, array in sample.feeds.items()
    }
    return replace(sample, feeds=feeds)


def _source(error: Exception) -> str | None:
    """``passes/blocks/fuse_gelu.py:93``: where an error was raised."""
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    if not frames:
        return None
    path = Path(frames[-1].filename)
    return f"{path.parent.name}/{path.name}:{frames[-1].lineno}"
