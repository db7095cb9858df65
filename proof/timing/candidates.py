"""What takes part in a race: a subject and what one call of it means in a mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from ...engines.base import Engine
from ...engines.text.pipeline import text_pipeline
from ...engines.text.runtime import TextRuntime
from ...engines.text.task import TaskSpec
from ...errors import FeedError
from ...graph.tensors import Feeds
from ..subjects.as_engine import as_engine, engine_inside
from ..subjects.base import Subject, chosen_feeds
from .turns import Call
from .work import Work

Mode = Literal["engine", "e2e", "pipeline"]
MODES: Mapping[Mode, str] = {
    "engine": "arrays in, arrays out; on a GPU what the device does between two events",
    "e2e": "arrays in host memory in, arrays in host memory out; with the copies of a GPU",
    "pipeline": "texts in, answers out: tokenise, pad, run, pool",
}


class Candidate:
    """An open subject in a race.

    Args:
        name: in tables; no other candidate of the race has it.
        subject: the candidate closes it.
        is_baseline: whether the race goes on without it when it fails.

    Attributes:
        name: as given.
        subject: as given.
        is_baseline: as given.
    """

    def __init__(self, name: str, subject: Subject, *, is_baseline: bool = False) -> None:
        self.name = name
        self.subject = subject
        self.is_baseline = is_baseline
        self._runtime: TextRuntime | None = None
        self._resources = ExitStack()

    def call(
        self,
        work: Work,
        mode: Mode,
        reader: tuple[Path, TaskSpec] | None = None,
        *,
        is_alone: bool = True,
    ) -> Call:
        """Prepare the calls of a piece of work; the first call is made here.

        Args:
            work: with feeds, in pipeline mode with texts.
            mode: what a call is.
            reader: tokenizer.json and task for subjects that have none of their own.
            is_alone: whether one client makes all calls; the clock of a GPU times no others.

        Raises:
            FuselageError: as the subject does on the work.
        """
        if mode == "pipeline":
            call = self._texts(work, reader)
        else:
            call = self._feeds(work, on_device=is_alone and mode == "engine")
        call(0)
        return call

    def close(self) -> None:
        """Close the subject and what its calls hold; may be called twice."""
        self._resources.close()
        self.subject.close()

    def _feeds(self, work: Work, *, on_device: bool) -> Call:
        subject = self.subject
        inputs = [chosen_feeds(subject.inputs, feeds, self.name) for feeds in work.inputs]
        count = len(inputs)
        engine = engine_inside(subject)
        if on_device and engine is not None and engine.target.startswith("tensorrt"):
            return self._by_device(engine, inputs)
        run = subject.run if engine is None else engine.run

        def call(number: int) -> None:
            run(inputs[number % count])

        return call

    def _by_device(self, engine: Engine, inputs: Sequence[Feeds]) -> Call:
        """Calls on feeds in GPU memory, timed by the GPU."""
        from ...engines.tensorrt.timed_calls import TimedCalls

        calls = TimedCalls(engine, inputs)
        self._resources.callback(calls.close)
        return lambda number: calls.run(number) * 1e6

    def _texts(self, work: Work, reader: tuple[Path, TaskSpec] | None) -> Call:
        runtime = self._runtime or self._open_runtime(reader)
        self._runtime = runtime
        inputs, count = work.inputs, len(work.inputs)

        def call(number: int) -> None:
            runtime(inputs[number % count])

        return call

    def _open_runtime(self, reader: tuple[Path, TaskSpec] | None) -> TextRuntime:
        subject = self.subject
        if subject.tokenizer is not None and subject.task is not None:
            reader = subject.tokenizer, subject.task
        if reader is None:
            raise FeedError(
                f"{self.name}: texts need a tokenizer, which neither it nor another candidate has; "
                "add a bundle or a torch: model, or measure with --mode engine"
            )
        return text_pipeline(as_engine(subject), reader[0], reader[1], profile=subject.profile)
