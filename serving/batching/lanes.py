"""The threads that cut the queue into batches and run them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from ...engines.text.runtime import Batch, TextRuntime
from ...errors import DeadlineError, DeviceError, DrainingError, FuselageError, OverloadError
from .metrics import BatcherMetrics, BatchRecord, Tally
from .policy import BatchPolicy, Waiting
from .requests import Picked, Request, joined, picked, shares

OnBatch = Callable[[BatchRecord], None]


class Lanes:
    """A queue and one thread a lane that empties it, as soon as the lane is free.

    Futures are ended outside the lock, so what hangs on them may call back.

    Args:
        runtime: runs the batches.
        policy: of the queue; nobody else touches it.
        count: lanes.
        on_batch: told of every batch, in the lane's thread.
    """

    def __init__(
        self, runtime: TextRuntime, policy: BatchPolicy, count: int, on_batch: OnBatch | None
    ) -> None:
        self._runtime = runtime
        self._policy = policy
        self._on_batch = on_batch
        self._tally = Tally()
        self._changed = threading.Condition()
        self._is_draining = False
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"lane-{lane}", daemon=True)
            for lane in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def admit(self, request: Request) -> None:
        """Let a request wait.

        Raises:
            DrainingError: when no more are taken.
            OverloadError: when too many texts wait already.
        """
        widths = self._runtime.widths(request.encoded.lengths).tolist()
        with self._changed:
            if self._is_draining:
                raise DrainingError("no more requests are taken: the server is stopping")
            try:
                self._policy.add(request.texts(widths, monotonic()))
            except OverloadError:
                self._tally.overloaded += 1
                raise
            self._tally.accepted += 1
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Forget a request; what already runs of it is run to its end and dropped."""
        self._give_up(request, None)

    def expire(self, request: Request) -> None:
        """Forget a request whose deadline has passed."""
        self._give_up(request, _late())

    def metrics(self) -> BatcherMetrics:
        """What was done so far."""
        with self._changed:
            return self._tally.snapshot(len(self._policy))

    def drain(self, timeout: float | None) -> bool:
        """Take no more requests and wait for the answers to those there are; whether all came."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(self._is_idle, timeout)

    def close(self) -> None:
        """Refuse what waits, wait for the batches that run, and end the threads."""
        with self._changed:
            self._is_draining = self._is_closed = True
            left: list[Waiting] = []
            while len(self._policy):
                left += self._policy.form(monotonic())
            self._changed.notify_all()
        for owner in {text.owner for text in left}:
            assert isinstance(owner, Request)  # nothing else is queued
            self._end(owner, DrainingError("the server stopped before this request had its turn"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _is_idle(self) -> bool:
        return not len(self._policy) and not self._tally.running

    def _work(self, lane: int) -> None:
        while (texts := self._next()) is not None:
            begin = monotonic()
            rows = picked(texts)
            self._answer(rows)
            self._ran(lane, texts, rows, begin)

    def _next(self) -> list[Waiting] | None:
        """Wait for a batch; None at the end."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or len(self._policy))
                late = self._policy.expire(monotonic())
                texts = self._policy.form(monotonic())
                self._tally.running += len(texts)
                if late:
                    self._changed.notify_all()  # who drains may wait for nothing else
                is_over = self._is_closed and not texts
            for text in late:
                assert isinstance(text.owner, Request)  # nothing else is queued
                self.expire(text.owner)
            if texts or is_over:
                return texts or None

    def _answer(self, rows: Picked) -> None:
        """Run the rows and hand them out; when a text breaks the batch, its request alone fails."""
        try:
            batches = list(self._runtime.run(joined(rows)))
        except Exception as error:  # whatever it is, a caller waits for it and the lane lives on
            requests = list(dict.fromkeys(request for request, _ in rows))
            if len(requests) == 1 or isinstance(error, DeviceError):
                for request in requests:
                    self._end(request, error)
                return
            for request in requests:
                self._answer([row for row in rows if row[0] is request])
            return
        for batch in batches:
            for request, share in shares(batch, rows):
                self._deliver(request, share)

    def _deliver(self, request: Request, share: Batch) -> None:
        with self._changed:
            request.parts.append(share)
            request.missing -= share.rows.size
            if request.missing or request.is_over:
                return
            request.is_over = True
            self._tally.answered += 1
        request.future.set_result(tuple(request.parts))

    def _give_up(self, request: Request, error: FuselageError | None) -> None:
        with self._changed:
            if request.is_over:
                return
            request.is_over = True
            self._policy.discard(request)
            self._tally.cancelled += error is None
            self._tally.expired += error is not None
            self._changed.notify_all()
        if error is not None:
            request.future.set_exception(error)

    def _end(self, request: Request, error: Exception) -> None:
        with self._changed:
            if request.is_over:
                return
            request.is_over = True
            self._policy.discard(request)
            self._tally.failed += 1
        request.future.set_exception(error)

    def _ran(self, lane: int, texts: Sequence[Waiting], rows: Picked, begin: float) -> None:
        lengths = [len(request.encoded.encodings[row]) for request, row in rows]
        record = BatchRecord(
            lane=lane,
            texts=len(texts),
            requests=len({id(request) for request, _ in rows}),
            tokens=sum(lengths),
            padded_tokens=max(text.width for text in texts) * len(texts),
            queue_ms=(begin - texts[0].arrived) * 1e3,
            compute_ms=(monotonic() - begin) * 1e3,
        )
        with self._changed:
            self._tally.add(record)
            self._tally.running -= len(texts)
            self._changed.notify_all()
        if self._on_batch is not None:
            _tell(self._on_batch, record)


def _late() -> DeadlineError:
    return DeadlineError("the deadline passed before the answer was there; ask for less, or later")


def _tell(on_batch: OnBatch, record: BatchRecord) -> Any:
    try:
        on_batch(record)
    except Exception:  # an observer's fault is not the request's
        logging.getLogger(__name__).exception("on_batch failed")
