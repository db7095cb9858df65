"""Blocking work of requests, beside the event loop and never more of it than may run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

from .faults import overloaded

_T = TypeVar("_T")


class Workers:
    """Threads that call an engine.

    A request that is given up leaves the queue at once, but the thread that works for it only when
    the call returns: until then its place is taken, so that calls nobody waits for any more cannot
    pile up.

    Args:
        threads: calls at once.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fuselage-http")
        self._places = asyncio.Semaphore(threads)

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Call a blocking function in a thread, with the context variables of the caller."""
        await self._places.acquire()
        try:
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, copy_context().run, function, *arguments
            )
        except BaseException:
            self._places.release()
            raise
        work.add_done_callback(self._ended)
        return await asyncio.shield(work)

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._places.release()
        if not work.cancelled():
            work.exception()  # looked at, in case nobody waits for it any more

    def close(self) -> None:
        """Wait for the calls under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Admission:
    """Counts requests of one model, and refuses those beyond a bound at once.

    Attributes:
        count: requests that wait or compute.

    Args:
        most: of them.
    """

    def __init__(self, most: int) -> None:
        self.count = 0
        self._most = most

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a request.

        Raises:
            RequestError: 503 when there are as many as there may be.
        """
        if self.count >= self._most:
            raise overloaded(f"{self.count} requests wait already; try again later")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
