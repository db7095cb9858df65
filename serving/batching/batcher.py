"""Requests of many callers through one engine, in batches that are formed when it is free."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from time import monotonic
from typing import Any, Self, TypeVar

from ...engines.text.encoder import Encoded
from ...engines.text.runtime import Batch, Steps, TextRuntime, finished
from ...errors import DeadlineError, TextError
from .lanes import Lanes, OnBatch
from .metrics import BatcherMetrics
from .options import BatcherOptions
from .policy import BatchPolicy, BatchRules
from .requests import Request

INLINE_CHARACTERS = 4096
"""Inputs up to here are tokenised on the event loop, about 1 ms; longer ones in a thread."""

_THREADS = 2
_T = TypeVar("_T")


class TokenBatcher:
    """Answers like its runtime, for many callers at once. Thread-safe; a context manager.

    A batch is formed when a lane is free, of texts that are about as long as the one whose turn it
    is; so nothing waits for others to come, and little is padded. Callers take turns. Answers are
    those of the runtime, whatever they were batched with.

    The runtime stays the caller's to close, after the batcher.

    Attributes:
        runtime: as given.
        options: as given.

    Args:
        runtime: of any task.
        options: bounds; None for the defaults.
        on_batch: told of every batch, in the thread of its lane.
    """

    def __init__(
        self,
        runtime: TextRuntime,
        options: BatcherOptions | None = None,
        *,
        on_batch: OnBatch | None = None,
    ) -> None:
        self.runtime = runtime
        self.options = options or BatcherOptions()
        is_cpu = runtime.engine.target == "ort-cpu"
        lanes = self.options.lanes or (1 if is_cpu else 2)
        policy = BatchPolicy(_rules(runtime, self.options, is_cpu=is_cpu))
        self._lanes = Lanes(runtime, policy, lanes, on_batch)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="text")
        self._end = weakref.finalize(self, _close, self._lanes, self._pool)

    async def ask(
        self,
        inputs: Any,
        *,
        options: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        client: str = "",
    ) -> Any:
        """Answer as ``runtime(inputs, **options)`` does; cancelling it gives the request up.

        Args:
            inputs: a text, a pair, a question, or a list of them, as the task takes them.
            options: the task's keyword arguments, such as ``top_k``.
            deadline: seconds from now by which the answer is wanted; None for the batcher's own.
            client: whose turn it is; clients take turns, whatever each sends.

        Raises:
            OverloadError: at once, when too many texts wait.
            DeadlineError: when the deadline passes.
            DrainingError: when no more requests are taken, or the batcher closed first.
            TextError: when the inputs are not what the task takes, or more than may ever wait.
            FuselageError: what else the runtime raises.
        """
        until = self._until(deadline)
        steps = self.runtime.steps(inputs, options)
        is_short = _characters(inputs) <= INLINE_CHARACTERS
        encoded = next(steps) if is_short else await self._in_thread(next, steps)
        batches = await self._run(encoded, until, client)
        if is_short:
            return finished(steps, batches)
        return await self._in_thread(finished, steps, batches)

    async def run(
        self, encoded: Encoded, *, deadline: float | None = None, client: str = ""
    ) -> tuple[Batch, ...]:
        """Run rows that are tokenised already, as ``runtime.run`` does; see `ask`."""
        return await self._run(encoded, self._until(deadline), client)

    def submit(
        self,
        inputs: Any,
        *,
        options: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        client: str = "",
    ) -> Future[Any]:
        """Tokenise here and now, and answer by a future; cancelling it gives the request up.

        Args:
            inputs: see `ask`, as for the others.
            options: see there.
            deadline: see there; looked at when a lane is free, not in between.
            client: see there.

        Raises:
            OverloadError, DrainingError, TextError: see `ask`; other errors come by the future.
        """
        until = self._until(deadline)
        steps = self.runtime.steps(inputs, options)
        request = self._admit(next(steps), until, client)
        answer: Future[Any] = Future()
        lanes, pool = self._lanes, self._pool  # not self, which is collected when nobody has it

        def give_up(future: Future[Any]) -> None:
            if future.cancelled():
                lanes.cancel(request)

        answer.add_done_callback(give_up)
        request.future.add_done_callback(
            lambda batches: pool.submit(_settle, answer, steps, batches)
        )
        return answer

    def metrics(self) -> BatcherMetrics:
        """What was done so far, and the last batches one by one."""
        return self._lanes.metrics()

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, answer those there are, and close.

        Blocks: on an event loop, ``await asyncio.to_thread(batcher.drain, 30)``.

        Args:
            timeout: seconds; what waits by then is refused. None for as long as it takes.

        Returns:
            Whether all were answered.
        """
        is_done = self._lanes.drain(timeout)
        self.close()
        return is_done

    def close(self) -> None:
        """Refuse what waits, and wait for the batches that run; may be called twice."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()

    def _until(self, deadline: float | None) -> float:
        seconds = self.options.deadline if deadline is None else deadline
        return float("inf") if seconds is None else monotonic() + seconds

    def _admit(self, encoded: Encoded, until: float, client: str) -> Request:
        rows = len(encoded.encodings)
        if rows > self.options.max_queue:
            raise TextError(
                f"expected at most {self.options.max_queue} texts (or windows of them) in one "
                f"request, got {rows}; send them in several"
            )
        if until <= monotonic():
            raise DeadlineError("the deadline passed before the texts were tokenised")
        request = Request(encoded, client=client, deadline=until)
        self._lanes.admit(request)
        return request

    async def _run(self, encoded: Encoded, until: float, client: str) -> tuple[Batch, ...]:
        request = self._admit(encoded, until, client)
        left = None if until == float("inf") else until - monotonic()
        try:
            async with asyncio.timeout(left):
                return await asyncio.wrap_future(request.future)
        except TimeoutError:
            self._lanes.expire(request)
            # whoever ended it first, the lanes or this, has said why
            return await asyncio.wrap_future(request.future)
        except asyncio.CancelledError:
            self._lanes.cancel(request)
            raise

    async def _in_thread(self, function: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, copy_context().run, function, *arguments)


def _rules(runtime: TextRuntime, options: BatcherOptions, *, is_cpu: bool) -> BatchRules:
    floor = 0.9 if is_cpu else 0.7
    cap = 0.5 if is_cpu else 0.05

    def most_rows(width: int) -> int:
        rows = runtime.most_rows(width)
        if options.max_tokens is not None:
            rows = min(rows, options.max_tokens // width)
        return max(1, rows if options.max_batch is None else min(rows, options.max_batch))

    return BatchRules(
        most_rows=most_rows,
        max_queue=options.max_queue,
        fill_floor=floor if options.fill_floor is None else options.fill_floor,
        age_cap=cap if options.age_cap is None else options.age_cap,
    )


def _settle(answer: Future[Any], steps: Steps[Any], batches: Future[tuple[Batch, ...]]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(finished(steps, batches.result()))
    except Exception as error:  # the caller's, whatever it is
        answer.set_exception(error)


def _characters(inputs: Any) -> int:
    """Of all texts in it."""
    if isinstance(inputs, str):
        return len(inputs)
    if isinstance(inputs, Mapping):
        return sum(map(_characters, inputs.values()))
    return sum(map(_characters, inputs)) if isinstance(inputs, Iterable) else 0


def _close(lanes: Lanes, pool: ThreadPoolExecutor) -> None:
    lanes.close()
    pool.shutdown(wait=True)
