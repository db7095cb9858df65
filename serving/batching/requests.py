"""Requests: their texts among others' in a batch, and the batches' answers back to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import pairwise

import numpy as np

from ...engines.text.encoder import Encoded
from ...engines.text.runtime import Batch
from .policy import Waiting


class Request:
    """Texts of one caller. Changed under the lock of the lanes, but for its future.

    Attributes:
        encoded: its texts.
        future: the batches that hold all of its rows; nobody but the lanes can end it.
        client: who asks.
        deadline: time by which its texts must have begun.
        missing: rows without an answer.
        is_over: whether nobody waits for more answers.
        parts: answers so far.
    """

    def __init__(self, encoded: Encoded, *, client: str, deadline: float) -> None:
        self.encoded = encoded
        self.client = client
        self.deadline = deadline
        self.missing = len(encoded.encodings)
        self.is_over = False
        self.parts: list[Batch] = []
        self.future: Future[tuple[Batch, ...]] = Future()
        self.future.set_running_or_notify_cancel()

    def texts(self, widths: Sequence[int], now: float) -> list[Waiting]:
        """What waits in the queue for it."""
        return [
            Waiting(
                owner=self,
                row=row,
                width=width,
                client=self.client,
                arrived=now,
                deadline=self.deadline,
            )
            for row, width in enumerate(widths)
        ]


Picked = list[tuple[Request, int]]
"""Requests and one row each, in the order of a batch; rows of one request stand together."""


def picked(texts: Sequence[Waiting]) -> Picked:
    """The rows that a batch of the policy is made of."""
    groups: dict[Request, Picked] = {}
    for text in texts:
        assert isinstance(text.owner, Request)  # what the lanes put into the queue
        groups.setdefault(text.owner, []).append((text.owner, text.row))
    return [row for group in groups.values() for row in group]


def joined(rows: Picked) -> Encoded:
    """The rows as texts of one call."""
    encodings = tuple(request.encoded.encodings[row] for request, row in rows)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    return Encoded(encodings, np.arange(len(encodings)), lengths)


def shares(batch: Batch, rows: Picked) -> Iterator[tuple[Request, Batch]]:
    """What an answer to the joined rows holds for each request, under the request's own rows."""
    order = np.argsort(batch.rows, kind="stable")
    owners = [rows[index] for index in batch.rows[order].tolist()]
    changes = [at for at in range(1, len(owners)) if owners[at][0] is not owners[at - 1][0]]
    for first, end in pairwise([0, *changes, len(owners)]):
        at = order[first:end]
        own = np.array([row for _, row in owners[first:end]], np.intp)
        outputs = tuple(values[at] for values in batch.outputs)
        share = Batch(rows=own, outputs=outputs, lengths=batch.lengths[at], begins=batch.begins[at])
        yield owners[first][0], share
