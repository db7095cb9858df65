"""Calls on feeds that stay on the GPU, by the clock of the fake one."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.timed_calls import TimedCalls
from fuselage.errors import DeviceError, FeedError


@pytest.fixture
def ticking(rig: Any) -> Any:
    """A rig whose kernels take a millisecond for each row."""
    computed = rig.trt.model.function

    def compute(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rig.cuda.milliseconds += len(feeds["ids"])
        outputs: dict[str, np.ndarray] = computed(feeds)
        return outputs

    rig.trt.model.function = compute
    return rig


def test_a_call_takes_what_the_gpu_took(ticking: Any) -> None:
    feeds = [ticking.feeds(batch, 5) for batch in (1, 3, 7)]
    with ticking.open() as engine, TimedCalls(engine, feeds, Cuda(ticking.cuda)) as calls:
        ticking.cuda.milliseconds += 1000  # before the call, so no part of it
        assert [calls.run(number) for number in range(5)] == [1, 3, 7, 1, 3]


def test_feeds_are_copied_once_and_freed_in_the_end(ticking: Any) -> None:
    with ticking.open() as engine:
        before = ticking.cuda.leaks()
        with TimedCalls(engine, [ticking.feeds(2, 4)], Cuda(ticking.cuda)) as calls:
            copies = ticking.cuda.calls["cudaMemcpyAsync"]
            for number in range(4):
                calls.run(number)
            assert ticking.cuda.calls["cudaMemcpyAsync"] == copies
        calls.close()
        after = ticking.cuda.leaks()
        assert after.get("streams") == before.get("streams")
        assert after.get("pinned") == before.get("pinned")
    assert ticking.cuda.leaks() == {}


def test_feeds_the_engine_does_not_take_leave_nothing_behind(ticking: Any) -> None:
    with ticking.open() as engine:
        bad = [{"ids": np.zeros((1, 99), np.int64), "mask": np.ones((1, 99), np.int64)}]
        with (
            TimedCalls(engine, bad, Cuda(ticking.cuda)) as calls,
            pytest.raises(FeedError, match="sequence"),
        ):
            calls.run(0)
    assert ticking.cuda.leaks() == {}


def test_a_gpu_without_memory_for_the_feeds_leaves_nothing_behind(
    ticking: Any, fakes: ModuleType
) -> None:
    with ticking.open() as engine:
        held = ticking.cuda.leaks()
        ticking.cuda.fail("cudaMallocAsync", fakes.Status.cudaErrorMemoryAllocation)
        with pytest.raises(DeviceError, match="cudaErrorMemoryAllocation"):
            TimedCalls(engine, [ticking.feeds(2, 4)], Cuda(ticking.cuda))
        assert ticking.cuda.leaks() == held
