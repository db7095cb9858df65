"""Lanes: many threads, several profiles, bounded memory, faults in the middle, and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.base import ExecutorOptions
from fuselage.errors import DeviceError

SHAPES = ((1, 1), (3, 7), (8, 16), (64, 64), (5, 13), (2, 64))


def hammer(threads: int, calls: int, work: Callable[[int, int], Any]) -> None:
    """Every thread calls ``work(thread, call)``; the first failure is raised."""
    with ThreadPoolExecutor(threads) as pool:
        for done in [
            pool.submit(lambda thread: [work(thread, call) for call in range(calls)], index)
            for index in range(threads)
        ]:
            done.result()


def soak(rig: Any, threads: int, calls: int) -> None:
    random = np.random.default_rng(0)
    shapes = [SHAPES[index] for index in random.integers(0, len(SHAPES), threads * calls)]
    with rig.open(graphs=8) as engine:
        fed = rig.feeds(64, 64)
        for lane in engine._lanes:
            for slot in lane.slots:  # the largest shape first
                rig.compare(lane.run(slot, engine._requests.read(fed), fed), fed)
        settled = rig.cuda.leaks() | {"graphs": 0}
        rig.cuda.peaks.clear()

        def one(thread: int, call: int) -> None:
            batch, sequence = shapes[thread * calls + call]
            rig.check(engine, batch, sequence, seed=thread * calls + call)

        hammer(threads, calls, one)
        held = engine.statistics()
        assert held.calls == threads * calls + 4
        assert held.graph_launches > held.calls / 2
        assert held.graphs <= 2 * 8
        assert rig.cuda.leaks() | {"graphs": 0} == settled, "nothing grew after the largest shape"
        assert rig.cuda.peaks["memory"] <= settled["memory"]
        assert rig.cuda.peaks["graphs"] <= 2 * (8 + 2), "and one being recorded a lane"
        assert len(rig.trt.contexts) == 2, "one a lane"
    assert rig.cuda.leaks() == {}


@pytest.mark.parametrize("seed", [0, 1])
def test_many_threads_get_their_own_answers(rigs: ModuleType, fakes: ModuleType, seed: int) -> None:
    soak(rigs.Rig(fakes, "tensorrt-11.4.0.106", seed=seed), threads=16, calls=25)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["tensorrt-11.4.0.106"])
def test_64_threads_with_1000_requests_each(
    rigs: ModuleType, fakes: ModuleType, version: str
) -> None:
    soak(rigs.Rig(fakes, version), threads=64, calls=1000)


def test_each_call_runs_in_the_smallest_profile_that_takes_it(
    rigs: ModuleType, fakes: ModuleType
) -> None:
    profiles = (
        {"batch": [1, 8, 64], "sequence": [1, 64, 64]},
        {"batch": [1, 8, 64], "sequence": [1, 8, 16]},
        {"batch": [1, 1, 4], "sequence": [17, 32, 32]},
    )
    rig = rigs.Rig(fakes, "tensorrt-10.16.1.11", profiles=profiles)
    with rig.open(lanes=1) as engine:
        contexts = rig.trt.contexts
        assert [context._profile for context in contexts] == [0, 1, 2]
        assert len({context._workspace for context in contexts}) == 1, "they share scratch memory"
        assert engine.statistics().workspace_bytes == 3 * 1024, "what the neediest profile takes"
        chosen = []
        for batch, sequence in ((2, 16), (2, 17), (5, 17), (2, 33), (64, 1)):
            before = [context._executions for context in contexts]
            rig.check(engine, batch, sequence)
            after = [context._executions for context in contexts]
            chosen.append([b > a for a, b in zip(before, after, strict=True)].index(True))
        assert chosen == [1, 2, 0, 0, 1]


def test_lanes_share_the_engine_but_not_a_context(rig: Any) -> None:
    with rig.open(lanes=3):
        assert len(rig.trt.contexts) == 3
        assert len({id(context._engine) for context in rig.trt.contexts}) == 1
        assert len({context._workspace[0] for context in rig.trt.contexts}) == 3
    assert rig.cuda.leaks() == {}


def test_a_lone_caller_uses_one_slot_of_one_lane(rig: Any) -> None:
    with rig.open(lanes=3) as engine:
        for _ in range(4):
            rig.check(engine, 2, 2)
        assert sorted(context._executions for context in rig.trt.contexts) == [0, 0, 4]
        assert rig.cuda.leaks()["pinned"] == 4, "one buffer a tensor"


def test_callers_at_once_are_spread_over_the_lanes(rig: Any) -> None:
    with rig.open(lanes=2) as engine:
        first, second, third = (engine._pool.acquire() for _ in range(3))
        assert first[0] is not second[0]
        assert third[0] is first[0]
        assert third[1] is not first[1]
        for lane, slot in (first, second, third):
            engine._pool.release(lane, slot)


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("call", ["cudaMallocAsync", "cudaHostAlloc", "cudaEventCreateWithFlags"])
def test_a_lane_that_does_not_open_leaves_nothing_behind(rig: Any, call: str, failing: int) -> None:
    success = rig.fakes.Status.cudaSuccess
    memory = rig.fakes.Status.cudaErrorMemoryAllocation
    rig.cuda.fail(call, *[success] * (failing - 1), memory)
    opens = {"cudaMallocAsync": 3, "cudaHostAlloc": 0, "cudaEventCreateWithFlags": 12}[call]
    if failing <= opens:
        with pytest.raises(DeviceError, match=r"cudaErrorMemoryAllocation.*out of memory"):
            rig.open(lanes=3)
    else:
        rig.open(lanes=3).close()
    assert rig.cuda.leaks() == {}


FAULTS = ["cudaMallocAsync", "cudaHostAlloc", "cudaMemcpyAsync", "cudaEventRecord"]
FAULTS += ["cudaStreamWaitEvent", "cudaStreamSynchronize", "cudaGraphLaunch", "execute", "shape"]


@pytest.mark.parametrize("fault", FAULTS)
def test_threads_recover_from_a_fault_in_the_middle(rig: Any, fault: str) -> None:
    """Some calls fail with a clear error; every other answer is right, and all are afterwards."""
    errors: list[str] = []
    lock = threading.Lock()

    def one(thread: int, call: int) -> None:
        if thread == 0 and call == 5:
            inject(rig, fault)
        batch, sequence = SHAPES[(thread + call) % len(SHAPES)]
        try:
            rig.check(engine, batch, sequence, seed=thread * 100 + call)
        except DeviceError as error:
            rig.trt.faults = set()
            with lock:
                errors.append(str(error))

    with rig.open(graph_after=2) as engine:
        hammer(6, 12, one)
        rig.trt.faults = set()
        rig.cuda.fail(fault)
        assert all("cannot" in error for error in errors)
        assert len(errors) <= 6 + 2
        hammer(6, 6, lambda thread, call: rig.check(engine, *SHAPES[(thread + call) % 6]))
    assert rig.cuda.leaks() == {}


def inject(rig: Any, fault: str) -> None:
    if fault.startswith("cuda"):
        rig.cuda.fail(fault, *[rig.fakes.Status.cudaErrorMemoryAllocation] * 2)
    else:
        rig.trt.faults = {fault}


def test_a_lost_gpu_ends_every_call_with_the_reason(rig: Any) -> None:
    engine = rig.open()
    rig.check(engine, 2, 2)
    rig.cuda.lost = rig.fakes.Status.cudaErrorLaunchFailure
    with pytest.raises(DeviceError, match=r"cudaErrorLaunchFailure \(719\).*new process"):
        engine.run(rig.feeds(2, 2))
    before = rig.cuda.calls.copy()
    with pytest.raises(DeviceError, match=r"engine lost its GPU \(.*719.*\); load it again"):
        engine.run(rig.feeds(2, 2))
    assert rig.cuda.calls == before, "a dead GPU is left alone"
    engine.close()
    engine.close()


def test_those_that_wait_for_a_slot_hear_of_a_lost_gpu(rig: Any) -> None:
    engine = rig.open(lanes=1)
    held = [engine._pool.acquire() for _ in range(2)]
    errors: list[str] = []

    def wait() -> None:
        with pytest.raises(DeviceError) as caught:
            engine.run(rig.feeds(1, 1))
        errors.append(str(caught.value))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    engine._pool.condemn("lost its GPU (a test)")
    for thread in threads:
        thread.join(timeout=10)
    assert len(errors) == 3
    assert all("lost its GPU (a test)" in error for error in errors)
    for lane, slot in held:
        engine._pool.release(lane, slot)
    engine.close()


def test_close_waits_for_the_calls_under_way(rig: Any) -> None:
    engine = rig.open(lanes=1)
    lane, slot = engine._pool.acquire()
    closers = [threading.Thread(target=engine.close) for _ in range(2)]
    for thread in closers:
        thread.start()
    while engine._pool._end is None:
        time.sleep(0.001)
    with pytest.raises(DeviceError, match="is closed; load it again"):
        engine.run(rig.feeds(1, 1))
    assert all(thread.is_alive() for thread in closers)
    assert rig.cuda.leaks() != {}
    engine._pool.release(lane, slot)
    for thread in closers:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert rig.cuda.leaks() == {}


@pytest.mark.parametrize(
    "options", [{"lanes": 0}, {"graphs": -1}, {"graph_after": 0}], ids=lambda o: next(iter(o))
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(DeviceError, match="expected at least 1 lane, 0 graphs and 1 call"):
        ExecutorOptions(**options)
