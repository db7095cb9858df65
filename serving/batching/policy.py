"""Which of the waiting texts run next: decided from a queue and a time, without threads."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from ...errors import OverloadError


@dataclass(frozen=True, kw_only=True)
class BatchRules:
    """Bounds of a policy; see `BatcherOptions`.

    Attributes:
        most_rows: texts of a width that one batch may have.
        max_queue: texts that may wait.
        fill_floor: least sum of widths over texts times the widest.
        age_cap: seconds after which the floor does not hold for a text.
    """

    most_rows: Callable[[int], int]
    max_queue: int
    fill_floor: float
    age_cap: float


@dataclass(eq=False, kw_only=True)
class Waiting:
    """One text in the queue.

    Attributes:
        owner: the request it belongs to.
        row: which text of the request.
        width: tokens it is padded to when it is alone.
        client: who asks.
        arrived: time in seconds.
        deadline: time by which it must have begun; infinite for none.
        turn: its place among the turns of all clients, given by the policy.
    """

    owner: Hashable
    row: int
    width: int
    client: str
    arrived: float
    deadline: float = float("inf")
    turn: float = field(default=0.0, init=False)


class BatchPolicy:
    """A bounded queue that is cut into batches when an engine is free. Not thread-safe.

    The head of the line is in every batch, so none starves. The others are taken by how near their
    width is to the head's, as long as the fill stays above the floor; those that have waited beyond
    the age cap come first and regardless of it.

    The line is by turns, not by arrival: a client's texts take turns one after another, as far
    apart as they are wide, from the clock of the service on, which each batch moves by its share
    for one client. A client with one text thus stands before the second text of one with a
    thousand. Because the clock always moves, a text is overtaken only by so many.

    Source of the turns: Goyal, Vin, Cheng, "Start-time fair queueing" (1997), with the clock of
    weighted fair queueing (Demers, Keshav, Shenker, 1989).
    """

    def __init__(self, rules: BatchRules) -> None:
        self._rules = rules
        self._waiting: list[Waiting] = []
        self._clock = 0.0
        self._next_turn: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, texts: Sequence[Waiting]) -> None:
        """Let the texts of a request wait.

        Raises:
            OverloadError: when they are more than may wait; then none of them does.
        """
        if len(self._waiting) + len(texts) > self._rules.max_queue:
            raise OverloadError(
                f"{len(self._waiting)} texts wait and {len(texts)} more were sent, at most "
                f"{self._rules.max_queue} may wait; try again in a moment"
            )
        for text in texts:
            text.turn = max(self._clock, self._next_turn.get(text.client, 0.0))
            self._next_turn[text.client] = text.turn + text.width
        self._waiting += texts

    def discard(self, owner: Hashable) -> int:
        """Take the texts of a request out of the queue; how many there were."""
        before = len(self._waiting)
        self._waiting = [text for text in self._waiting if text.owner is not owner]
        return before - len(self._waiting)

    def expire(self, now: float) -> list[Waiting]:
        """Take out and return what waits beyond its deadline."""
        late = [text for text in self._waiting if text.deadline <= now]
        if late:
            self._waiting = [text for text in self._waiting if text.deadline > now]
        return late

    def form(self, now: float) -> list[Waiting]:
        """Take out the next batch, its head first; empty when nothing waits."""
        if not self._waiting:
            return []
        self._waiting.sort(key=_turn)  # stable, and nearly sorted already
        head, *others = self._waiting
        batch = _Batch(head, self._rules)
        aged = [text for text in others if now - text.arrived > self._rules.age_cap]
        for text in aged:
            batch.join(text, floor=0.0)
        young = others
        if aged:
            skipped = set(map(id, aged))
            young = [text for text in others if id(text) not in skipped]
        for text in sorted(young, key=lambda text: abs(text.width - head.width)):
            if batch.is_full:
                break
            batch.join(text, floor=self._rules.fill_floor)
        self._take(batch)
        return batch.texts

    def _take(self, batch: _Batch) -> None:
        clients = len({text.client for text in self._waiting})
        taken = set(map(id, batch.texts))
        self._waiting = [text for text in self._waiting if id(text) not in taken]
        self._clock = max(self._clock, batch.texts[0].turn) + batch.tokens / clients
        if not self._waiting:
            self._next_turn.clear()
            return
        turns = self._next_turn.items()
        self._next_turn = {client: turn for client, turn in turns if turn > self._clock}


class _Batch:
    """What has joined the head so far."""

    def __init__(self, head: Waiting, rules: BatchRules) -> None:
        self.texts = [head]
        self.tokens = head.width
        self._width = head.width
        self._rules = rules
        self._most = rules.most_rows(head.width)

    @property
    def is_full(self) -> bool:
        """Whether not even a text as wide as the widest fits."""
        return len(self.texts) >= self._most

    def join(self, text: Waiting, floor: float) -> None:
        """Take the text in if it fits and the fill stays at the floor or above."""
        width = max(self._width, text.width)
        most = self._most if width == self._width else self._rules.most_rows(width)
        rows = len(self.texts) + 1
        if rows > most or self.tokens + text.width < floor * width * rows:
            return
        self.texts.append(text)
        self.tokens += text.width
        self._width, self._most = width, most


_turn = attrgetter("turn")
