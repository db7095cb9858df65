"""The batcher with its threads, on runtimes of several tasks."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from fuselage.errors import (
    DeadlineError,
    DeviceError,
    DrainingError,
    FuselageError,
    OverloadError,
    TextError,
    VerificationError,
)
from fuselage.serving.batching import BatcherOptions, BatchRecord, TokenBatcher

SOURCE = random.Random(3)
TEXTS = [" ".join(SOURCE.choices("abcdefghij", k=SOURCE.randint(1, 60))) for _ in range(120)]


@contextmanager
def held(batcher: TokenBatcher, engine: Any) -> Iterator[None]:
    """The only lane is busy with one text, so that what comes next waits."""
    engine.gate.clear()
    engine.begun.clear()
    first = batcher.submit("a")
    assert engine.begun.wait(20)
    try:
        yield
    finally:
        engine.gate.set()
        first.exception(20)


def test_answers_are_those_of_one_by_one_in_order(make: Any) -> None:
    runtime, _ = make()
    wanted = np.stack([runtime(text) for text in TEXTS])
    with TokenBatcher(runtime) as batcher:

        async def ask() -> list[Any]:
            return await asyncio.gather(*(batcher.ask(text) for text in TEXTS))

        np.testing.assert_allclose(np.stack(asyncio.run(ask())), wanted, atol=1e-5)
        np.testing.assert_allclose(batcher.submit(TEXTS).result(20), wanted, atol=1e-5)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda text: batcher.submit(text).result(20), TEXTS))
        np.testing.assert_allclose(np.stack(answers), wanted, atol=1e-5)
        assert batcher.metrics().answered == 241


def test_batches_several_tasks_with_their_options(make: Any) -> None:
    labels = ("v", "w", "x", "y")
    for task, options in (
        ("sequence-classification", {"top_k": 2}),
        ("token-classification", {"aggregation_strategy": "simple", "ignore_labels": ()}),
    ):
        runtime, engine = make(task, labels=labels)
        if task == "token-classification":
            engine.run = _per_token(engine)
        wanted = [runtime(text, **options) for text in TEXTS[:40]]
        with TokenBatcher(runtime, BatcherOptions(lanes=3)) as batcher:
            futures = [batcher.submit(text, options=options) for text in TEXTS[:40]]
            for future, want in zip(futures, wanted, strict=True):
                got = future.result(20)
                assert [strip(entry) for entry in got] == [strip(entry) for entry in want]
                scores = [entry["score"] for entry in got]
                assert scores == pytest.approx([entry["score"] for entry in want], abs=1e-5)


def strip(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "score"}


def _per_token(engine: Any) -> Any:
    return lambda feeds: {engine.outputs[0].name: engine.table[feeds["input_ids"]]}


def test_forms_batches_near_in_length(make: Any) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime) as batcher:
        with held(batcher, engine):
            futures = [batcher.submit(" ".join("a" * count)) for count in (40, 2, 39, 2, 38)]
        [future.result(20) for future in futures]
    assert engine.batches == [(1, 1), (3, 40), (2, 2)]
    records = batcher.metrics().recent
    assert [record.fill for record in records] == [1.0, 117 / 120, 1.0]
    assert [record.tokens for record in records] == [1, 117, 4]
    assert all(record.queue_ms >= 0 and record.compute_ms > 0 for record in records)


def test_overload_is_refused_at_once_and_passes(make: Any) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime, BatcherOptions(max_queue=3)) as batcher:
        with held(batcher, engine):
            waiting = [batcher.submit("b") for _ in range(3)]
            begin = time.monotonic()
            with pytest.raises(OverloadError, match="3 texts wait and 1 more"):
                batcher.submit("c")
            assert time.monotonic() - begin < 1
            with pytest.raises(TextError, match=r"at most 3 texts .* got 4"):
                batcher.submit(["a"] * 4)
        assert len([future.result(20) for future in waiting]) == 3
        assert batcher.submit("c").result(20).shape == (4,)
        assert batcher.metrics().overloaded == 1


def test_deadlines_end_requests_that_wait_or_run(make: Any) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime) as batcher:

        async def late() -> float:
            begin = time.monotonic()
            with pytest.raises(DeadlineError):
                await batcher.ask("b", deadline=0.05)
            return time.monotonic() - begin

        with held(batcher, engine):
            assert asyncio.run(late()) < 2
            future = batcher.submit("c", deadline=0.01)
            time.sleep(0.02)
        with pytest.raises(DeadlineError):
            future.result(20)
        assert batcher.metrics().expired == 2
        # nothing of theirs was run
        assert engine.batches == [(1, 1)]


def test_cancelled_requests_leave_the_queue(make: Any) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime) as batcher:

        async def give_up() -> None:
            task = asyncio.create_task(batcher.ask(["b", "c"]))
            await asyncio.sleep(0.02)
            assert batcher.metrics().waiting == 2
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert batcher.metrics().waiting == 0

        with held(batcher, engine):
            asyncio.run(give_up())
            future = batcher.submit("d")
            assert future.cancel()
            with pytest.raises(CancelledError):
                future.result()
            assert batcher.metrics().waiting == 0
        assert batcher.metrics().cancelled == 2
    assert engine.batches == [(1, 1)]


@pytest.mark.parametrize(
    ("word", "error", "match"),
    [("poison", ValueError, "poisoned"), ("nan", VerificationError, "NaN")],
)
def test_a_text_that_breaks_a_batch_fails_alone(
    make: Any, word: str, error: type[Exception], match: str
) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime) as batcher:
        with held(batcher, engine):
            futures = [batcher.submit(text) for text in ("a", word, "b", "c")]
        with pytest.raises(error, match=match):
            futures.pop(1).result(20)
        for future, text in zip(futures, "abc", strict=True):
            np.testing.assert_allclose(future.result(20), runtime(text), atol=1e-6)
        assert batcher.metrics().failed == 1


def test_a_lost_device_fails_the_batch_without_another_try(make: Any) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime) as batcher:
        with held(batcher, engine):
            futures = [batcher.submit("a") for _ in range(5)]
            engine.fault = DeviceError("gone")
        # the held call fails as well
        for future in futures:
            with pytest.raises(DeviceError, match="gone"):
                future.result(20)
    assert len(engine.batches) == 2


def test_drains(make: Any) -> None:
    runtime, engine = make()
    batcher = TokenBatcher(runtime)
    with held(batcher, engine):
        futures = [batcher.submit(text) for text in TEXTS[:20]]
        assert not batcher._lanes.drain(0.01)
        with pytest.raises(DrainingError):
            batcher.submit("a")
    assert batcher.drain(20)
    assert all(future.result(20).shape == (4,) for future in futures)
    assert batcher.drain()  # twice


def test_what_waits_beyond_the_drain_is_refused(make: Any) -> None:
    runtime, engine = make()
    batcher = TokenBatcher(runtime)
    engine.gate.clear()
    engine.begun.clear()
    first = batcher.submit("a")
    assert engine.begun.wait(20)
    second = batcher.submit("b")
    release = threading.Timer(0.2, engine.gate.set)
    release.start()
    assert not batcher.drain(0.05)
    release.join()
    assert first.result(20).shape == (4,)
    with pytest.raises(DrainingError):
        second.result(20)


def test_nothing_is_left_of_a_batcher_nobody_closed(make: Any) -> None:
    runtime, _ = make()
    before = threading.active_count()
    batcher = TokenBatcher(runtime, BatcherOptions(lanes=3))
    batcher.submit("a").result(20)
    assert threading.active_count() > before
    del batcher
    gc.collect()
    assert threading.active_count() == before


def test_tells_of_batches_and_survives_who_listens(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runtime, _ = make()
    told: list[BatchRecord] = []

    def listen(record: BatchRecord) -> None:
        told.append(record)
        raise RuntimeError("listener")

    with TokenBatcher(runtime, on_batch=listen) as batcher:
        batcher.submit("a b").result(20)
        batcher.submit("a b").result(20)
    assert [record.tokens for record in told] == [2, 2]
    assert "on_batch failed" in caplog.text


def test_long_texts_are_tokenised_beside_the_event_loop(make: Any) -> None:
    runtime, _ = make()
    with TokenBatcher(runtime) as batcher, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads: set[str] = set()
        encode = runtime.encoder.encode

        def seen(texts: Any, **options: Any) -> Any:
            threads.add(threading.current_thread().name)
            return encode(texts, **options)

        runtime.encoder.encode = seen  # type: ignore[method-assign]
        asyncio.run(batcher.ask("a"))
        assert threads == {"MainThread"}
        vector = asyncio.run(batcher.ask("a " * 5000))
        assert any(name.startswith("text") for name in threads)
        np.testing.assert_allclose(vector, runtime("a " * 5000), atol=1e-5)


def test_input_is_refused_where_it_is_asked(make: Any) -> None:
    runtime, engine = make()
    with TokenBatcher(runtime) as batcher:
        with pytest.raises(TextError, match="expected some text"):
            batcher.submit(" ")
        with pytest.raises(TextError, match="prompt_name"):
            asyncio.run(batcher.ask("a", options={"prompt_name": "none"}))
        with pytest.raises(DeadlineError, match="before the texts"):
            asyncio.run(batcher.ask("a", deadline=0.0))
    assert engine.batches == []


@pytest.mark.parametrize(
    "options",
    [{"max_queue": 0}, {"fill_floor": 1.5}, {"age_cap": -1}, {"deadline": 0}, {"lanes": 0}],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(FuselageError, match=f"batching: {next(iter(options))}: expected"):
        BatcherOptions(**options)


def test_many_threads_and_faults_leave_it_sound(make: Any) -> None:
    runtime, _ = make()
    wanted = {text: runtime(text) for text in TEXTS}
    options = BatcherOptions(lanes=3, max_queue=64, age_cap=0.001)

    def client(number: int) -> int:
        source, good = random.Random(number), 0
        for _ in range(60):
            text = source.choice([*TEXTS, "poison a"])
            try:
                future = batcher.submit(
                    text, client=str(number), deadline=source.choice([None, 0.002])
                )
                if source.random() < 0.1:
                    future.cancel()
                np.testing.assert_allclose(future.result(20), wanted[text], atol=1e-5)
                good += 1
            except (CancelledError, DeadlineError, OverloadError):
                continue
            except ValueError:
                assert text == "poison a"
        return good

    with TokenBatcher(runtime, options) as batcher, ThreadPoolExecutor(16) as pool:
        good = sum(pool.map(client, range(16)))
        metrics = batcher.metrics()
    assert good > 300
    assert metrics.answered + metrics.expired + metrics.cancelled + metrics.failed == (
        metrics.accepted
    )
    assert metrics.answered >= good
    assert (batcher.metrics().waiting, batcher.metrics().running) == (0, 0)
