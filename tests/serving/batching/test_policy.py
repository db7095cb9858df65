"""The policy in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.errors import OverloadError
from fuselage.serving.batching.policy import BatchPolicy, BatchRules, Waiting

NEVER = 1e9


def policy(
    *,
    floor: float = 0.9,
    cap: float = NEVER,
    queue: int = 10_000,
    rows: int = 64,
    tokens: int = 512,
) -> BatchPolicy:
    rules = BatchRules(
        most_rows=lambda width: max(1, min(rows, tokens // width)),
        max_queue=queue,
        fill_floor=floor,
        age_cap=cap,
    )
    return BatchPolicy(rules)


def text(width: int, *, at: float = 0.0, client: str = "", deadline: float = NEVER) -> Waiting:
    owner = object()
    return Waiting(owner=owner, row=0, width=width, client=client, arrived=at, deadline=deadline)


def widths(batch: Sequence[Waiting]) -> list[int]:
    return [each.width for each in batch]


def test_takes_the_head_and_what_is_nearest_to_it() -> None:
    queue = policy(rows=3, floor=0.0)
    queue.add([text(20), text(90), text(21), text(5), text(19)])
    assert widths(queue.form(0)) == [20, 21, 19]
    assert widths(queue.form(0)) == [90, 5]
    assert queue.form(0) == []


def test_keeps_the_fill_above_the_floor() -> None:
    queue = policy(floor=0.9)
    queue.add([text(10), text(8), text(8), text(9), text(50)])
    # (10 + 9 + 8) / 30 is 0.9 exactly; a fourth would make it 35 / 40
    assert widths(queue.form(0)) == [10, 9, 8]
    assert widths(queue.form(0)) == [8]
    assert widths(queue.form(0)) == [50]


def test_keeps_the_token_budget_of_the_widest() -> None:
    queue = policy(floor=0.0, tokens=100)
    queue.add([text(20), text(20), text(20), text(26), text(20)])
    assert widths(queue.form(0)) == [20, 20, 20, 20]  # a fifth of 26 would make 130


def test_the_age_cap_lifts_the_floor_but_not_the_budget() -> None:
    queue = policy(floor=0.9, cap=1.0, tokens=200)
    queue.add([text(10, at=0), text(100, at=0), text(60, at=0), text(10, at=1.5)])
    assert widths(queue.form(1.0)) == [10, 10]
    queue.add([text(12, at=1.5)])
    # 100 is the head now; 60 is aged and fits beside it, 12 is young and would be padding
    assert widths(queue.form(1.6)) == [100, 60]
    assert widths(queue.form(1.6)) == [12]


def test_clients_take_turns() -> None:
    queue = policy(rows=1)
    queue.add([text(10, client="many") for _ in range(50)])
    assert queue.form(0)[0].client == "many"
    queue.add([text(10, client="one")])
    served = [queue.form(0)[0].client for _ in range(3)]
    assert "one" in served[:2]


def test_turns_count_tokens_not_texts() -> None:
    queue = policy(rows=1)
    queue.add([text(40, client="long") for _ in range(200)])
    queue.add([text(10, client="short") for _ in range(200)])
    served = [queue.form(0)[0] for _ in range(100)]
    tokens = {
        client: sum(each.width for each in served if each.client == client)
        for client in ("long", "short")
    }
    assert tokens["long"] == pytest.approx(tokens["short"], rel=0.1)


def test_a_stream_of_new_clients_does_not_starve_an_old_one() -> None:
    queue = policy(rows=1, queue=100)
    queue.add([text(10, client="old") for _ in range(4)])
    last = queue._waiting[-1]
    # its turn is at 30, and each batch moves the clock by 10 tokens over at most 100 clients
    for number in range(300):
        with suppress(OverloadError):
            queue.add([text(10, client=f"new{number}")])
            queue.add([text(10, client=f"newer{number}")])
        if last in queue.form(0):
            return
    pytest.fail("300 batches passed it by")


def test_state_of_clients_does_not_grow() -> None:
    queue = policy(rows=4)
    queue.add([text(10, client="base") for _ in range(8)])
    for number in range(5000):
        queue.add([text(10, client=f"client{number}")])
        queue.add([text(10, client="base")])
        queue.form(0)
        queue.discard(queue._waiting[0].owner) if len(queue) > 8 else None
    assert len(queue._next_turn) < 100


def test_overload_takes_none_of_a_request() -> None:
    queue = policy(queue=3)
    queue.add([text(5), text(5)])
    with pytest.raises(OverloadError, match="2 texts wait and 2 more were sent, at most 3"):
        queue.add([text(5), text(5)])
    assert len(queue) == 2
    queue.form(0)
    queue.add([text(5), text(5), text(5)])
    assert len(queue) == 3


def test_discards_and_expires() -> None:
    queue = policy()
    kept, gone, late = text(5), text(5), text(5, deadline=2.0)
    queue.add([kept, gone, late])
    assert queue.discard(gone.owner) == 1
    assert queue.discard(gone.owner) == 0
    assert queue.expire(1.9) == []
    assert queue.expire(2.0) == [late]
    assert queue.form(2.0) == [kept]


@dataclass(frozen=True)
class Run:
    waits: list[float]
    fills: list[float]
    batches: int


def simulated(queue: BatchPolicy, arrivals: Sequence[Waiting], cost: Callable[[int], float]) -> Run:
    """One lane, fed by arrivals in order; what each text waited for its answer."""
    now, next_at = 0.0, 0
    waits: list[float] = []
    fills: list[float] = []
    batches = 0
    while next_at < len(arrivals) or len(queue):
        if not len(queue):
            now = max(now, arrivals[next_at].arrived)
        while next_at < len(arrivals) and arrivals[next_at].arrived <= now:
            queue.add([arrivals[next_at]])
            next_at += 1
        batch = queue.form(now)
        padded = max(widths(batch)) * len(batch)
        fills.append(sum(widths(batch)) / padded)
        now += cost(padded)
        waits += [now - each.arrived for each in batch]
        batches += 1
    return Run(waits, fills, batches)


def lognormal(rate: float, count: int, seed: int = 0) -> list[Waiting]:
    source, now, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        now += source.expovariate(rate)
        width = max(4, min(128, int(source.lognormvariate(3.4, 0.7))))
        arrivals.append(text(width, at=now))
    return arrivals


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]


def cpu(padded: int) -> float:
    return 4e-3 + 0.2e-3 * padded


def test_the_floor_keeps_a_loaded_cpu_from_drowning_in_padding() -> None:
    # without a floor and with batches up to 8192 tokens, 60 texts a second do not get through
    filled = simulated(policy(tokens=8192, cap=0.5), lognormal(60, 3000), cpu)
    padded = simulated(policy(tokens=8192, floor=0.0), lognormal(60, 3000), cpu)
    assert percentile(filled.waits, 0.5) < 0.03
    assert percentile(filled.waits, 0.99) < 0.2
    assert percentile(padded.waits, 0.5) > 1.0
    assert sum(filled.waits) < sum(padded.waits) / 20


def test_the_age_cap_bounds_the_wait() -> None:
    # twice what it can do for a second, then nothing: everything aged leaves within the budget
    burst = [text(4 + 13 * index % 125, at=index / 400) for index in range(400)]
    run = simulated(policy(cap=0.2), burst, cpu)
    total = sum(map(cpu, [512] * 400)) / 4
    assert max(run.waits) < total
    assert len(run.waits) == 400


lengths = st.lists(
    st.tuples(st.integers(1, 300), st.sampled_from("abc"), st.floats(0, 0.01)), min_size=1
)


@settings(deadline=None, max_examples=200)
@given(
    lengths,
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 16),
    st.integers(1, 512),
)
def test_every_batch_holds_what_is_promised(
    rows: list[tuple[int, str, float]], floor: float, cap: float, most: int, tokens: int
) -> None:
    queue = policy(floor=floor, cap=cap, rows=most, tokens=tokens)
    now, texts = 0.0, []
    for width, client, gap in rows:
        now += gap
        texts.append(text(width, at=now, client=client))
    queue.add(texts)
    seen: list[Waiting] = []
    while len(queue):
        head = min(queue._waiting, key=lambda each: each.turn)
        batch = queue.form(now)
        assert batch[0].turn == head.turn  # the head of the line is always in it
        widest, size = max(widths(batch)), len(batch)
        assert size <= most
        assert size == 1 or widest * size <= tokens
        if all(now - each.arrived <= cap for each in batch):
            assert sum(widths(batch)) >= floor * widest * size - 1e-9 or size == 1
        seen += batch
        now += 0.01
    assert sorted(map(id, seen)) == sorted(map(id, texts))  # each once, none left behind


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 100))
def test_nobody_is_passed_by_for_ever(width: int, clients: int, before: int) -> None:
    """Every batch brings in more than it takes out, all nearer to each other than to one text."""
    queue = policy(rows=4)
    queue.add([text(16, client=f"c{index % clients}") for index in range(before)])
    one = text(width, client="one")
    queue.add([one])
    for turn in range(before + 50 * clients):
        if one in queue.form(float(turn)):
            return
        queue.add([text(16, client=f"c{index % clients}") for index in range(8)])
    pytest.fail(f"{turn} batches passed it by")
