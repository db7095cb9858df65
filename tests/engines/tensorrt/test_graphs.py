"""CUDA graphs: recorded once a shape comes back, bounded, dropped with their buffers, and missed
without harm when they cannot be recorded."""

from __future__ import annotations

from typing import Any

import pytest

from fuselage.engines.tensorrt import engine as engine_module
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.executor.graph_cache import GraphCache
from fuselage.errors import DeviceError


def test_a_shape_that_comes_back_is_one_launch(rig: Any) -> None:
    with rig.open(graph_after=3) as engine:
        for seed in range(3):
            rig.check(engine, 4, 8, seed)
        ran = rig.cuda.calls["execute_async_v3"]
        assert ran == 4, "three answers and the one that is recorded"
        for seed in range(5):
            rig.check(engine, 4, 8, seed)
        assert rig.cuda.calls["execute_async_v3"] == ran
        assert rig.cuda.calls["cudaGraphLaunch"] == 5
        held = engine.statistics()
        assert (held.calls, held.graph_launches, held.captures, held.graphs) == (8, 5, 1, 1)
        assert engine.notes == ()
    assert rig.cuda.leaks() == {}


def test_a_launch_leaves_the_context_alone(rig: Any) -> None:
    with rig.open(graph_after=1) as engine:
        rig.check(engine, 4, 8)
        rig.check(engine, 2, 3)
        rig.trt.faults = {"shape", "infer", "address", "execute"}
        rig.check(engine, 4, 8)
        rig.check(engine, 2, 3)


def test_graphs_are_bounded_and_the_oldest_goes(rig: Any) -> None:
    with rig.open(graphs=3, graph_after=1) as engine:
        rig.check(engine, 8, 8)  # the largest first, so that no buffer is replaced
        for batch in (1, 2, 3, 1, 4, 5):
            rig.check(engine, batch, 8)
        assert engine.statistics().graphs == 3
        assert rig.cuda.leaks()["graphs"] == 3, "a graph is an executable alone once recorded"
        launched = engine.statistics().graph_launches
        assert launched == 1, "batch 1 came back while it was held"
        for batch in (1, 4, 5):
            rig.check(engine, batch, 8)
        assert engine.statistics().graph_launches == launched + 3
    assert rig.cuda.leaks() == {}


def test_no_graphs_when_none_may_be_kept(rig: Any) -> None:
    with rig.open(graphs=0, graph_after=1) as engine:
        for _ in range(5):
            rig.check(engine, 2, 2)
        assert rig.cuda.calls["cudaStreamBeginCapture"] == 0


def test_replaced_buffers_take_their_graphs_along(rig: Any) -> None:
    with rig.open(graph_after=1) as engine:
        rig.check(engine, 2, 4)
        rig.check(engine, 2, 4)
        assert engine.statistics().graph_launches == 1
        rig.check(engine, 60, 60)  # needs larger buffers; the fake would find a graph of the old
        rig.check(engine, 2, 4)
        rig.check(engine, 2, 4)
        held = engine.statistics()
        assert held.evictions == 1
        assert held.graph_launches == 2
        assert held.graphs == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("capture", "cannot run the plan: the reason for capture"),
        ("cudaStreamBeginCapture", "cannot begin a capture: cudaErrorStreamCaptureUnsupported"),
        ("cudaStreamEndCapture", "cannot end a capture: cudaErrorStreamCaptureInvalidated"),
        ("cudaGraphInstantiate", "cannot instantiate a graph: cudaErrorMemoryAllocation"),
    ],
)
def test_a_failed_capture_is_reported_and_costs_no_answer(
    rig: Any, fault: str, reason: str
) -> None:
    status = rig.fakes.Status
    failures = {
        "cudaStreamBeginCapture": status.cudaErrorStreamCaptureUnsupported,
        "cudaStreamEndCapture": status.cudaErrorStreamCaptureInvalidated,
        "cudaGraphInstantiate": status.cudaErrorMemoryAllocation,
    }
    with rig.open(graph_after=2) as engine:
        rig.check(engine, 4, 8)
        if fault in failures:
            rig.cuda.fail(fault, failures[fault])
        else:
            rig.trt.faults = {fault}
        for seed in range(4):
            rig.check(engine, 4, 8, seed)
        rig.trt.faults = set()
        assert engine.statistics().capture_failures == 1, "a shape is tried once"
        assert len(engine.notes) == 1
        assert engine.notes[0].startswith("some shapes run without a CUDA graph:")
        assert reason in engine.notes[0]
        assert rig.cuda.calls["cudaGetLastError"] == 2, "the error must not reach the next call"
        for seed in range(3):  # another shape is recorded all the same
            rig.check(engine, 2, 2, seed)
        assert engine.statistics().graph_launches == 1
    assert rig.cuda.leaks() == {}


def test_a_gpu_lost_during_a_capture_is_not_taken_for_a_failed_capture(rig: Any) -> None:
    with rig.open(graph_after=1) as engine:
        rig.cuda.fail("cudaGraphInstantiate", rig.fakes.Status.cudaErrorIllegalAddress)
        with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress \(700\)"):
            rig.check(engine, 4, 8)
        with pytest.raises(DeviceError, match="lost its GPU"):
            rig.check(engine, 4, 8)


def test_rtx_is_asked_whether_it_is_ready_to_be_recorded(rtx: Any) -> None:
    with rtx.open(graph_after=1) as engine:
        rtx.trt.capturable = False  # kernels for this shape are still being compiled
        rtx.check(engine, 2, 2)
        assert rtx.cuda.calls["cudaStreamBeginCapture"] == 0
        rtx.trt.capturable = True
        rtx.check(engine, 2, 2)
        rtx.check(engine, 2, 2)
        assert engine.statistics().graph_launches == 1
        assert engine.notes == ()


def test_shapes_that_are_counted_are_bounded(rig: Any) -> None:
    cache = GraphCache(Cuda(rig.cuda), limit=2, after=10, report=pytest.fail)
    for size in range(1000):
        assert not cache.due((0, (size,), 0))
    assert len(cache._entries) == 8


def test_a_context_that_is_not_ready_costs_no_wait(rtx: Any) -> None:
    rtx.trt.capturable = False
    with rtx.open(graph_after=1) as engine:
        rtx.check(engine, 2, 3)
        before = rtx.cuda.calls["cudaStreamSynchronize"]
        for _ in range(5):
            rtx.check(engine, 2, 3)
        assert rtx.cuda.calls["cudaStreamSynchronize"] == before + 5, "the answers alone"
        rtx.trt.capturable = True
        for _ in range(2):
            rtx.check(engine, 2, 3)
        assert engine.statistics().graph_launches == 1


def test_weights_that_stream_run_without_graphs(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "set_budget", lambda *_, **__: "5 of 9 bytes stay")
    with rig.open(graph_after=1) as engine:
        for _ in range(3):
            rig.check(engine, 2, 3)
        assert engine.statistics().captures == engine.statistics().capture_failures == 0
        assert engine.notes == ("5 of 9 bytes stay",)
