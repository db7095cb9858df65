"""Who owns memory and streams when calls are torn off, engines forgotten, processes forked."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.executor import dlpack
from fuselage.engines.tensorrt.executor.buffers import BufferSet
from fuselage.engines.tensorrt.executor.context import BoundContext
from fuselage.engines.tensorrt.executor.device_run import DeviceRun
from fuselage.engines.tensorrt.executor.device_tensor import DeviceMemory, DeviceTensor
from fuselage.engines.tensorrt.executor.dlpack import CUDA, DeviceView, taken
from fuselage.engines.tensorrt.executor.slot import Slot
from fuselage.errors import DeviceError, FeedError


def idle(rig: Any) -> bool:
    """Whether nothing is queued and nothing captures."""
    streams = rig.cuda.streams.values()
    return not any(stream.work or stream.capture is not None for stream in streams)


def borrowed(rig: Any, array: np.ndarray) -> tuple[DeviceTensor, int, int]:
    """A tensor of another library, its memory and its stream."""
    facade = Cuda(rig.cuda)
    stream = facade.create_stream()
    address = facade.allocate(array.nbytes, stream)
    facade.synchronize(stream)
    rig.cuda.span(address, array.nbytes)[:] = array.tobytes()
    view = DeviceView(address, array.shape, array.dtype, (CUDA, 0), contiguous=True)
    return DeviceTensor(facade, view, None, stream), address, stream


class TestCtrlC:
    """KeyboardInterrupt comes between any two lines; the slot goes to the next call at once."""

    @pytest.mark.parametrize("step", ["download", "upload"])
    def test_a_call_that_is_torn_off_leaves_nothing_queued(
        self, rig: Any, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        torn = _torn(getattr(Slot, step), after=1)
        with rig.open(graph_after=1) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(Slot, step, torn)
                with pytest.raises(KeyboardInterrupt):
                    engine.run(rig.feeds(3, 4))
            assert idle(rig), "the next call may free the buffers that this one uses"
            for _ in range(3):
                rig.check(engine, 3, 4)
        assert rig.cuda.leaks() == {}

    def test_a_recording_that_is_torn_off_ends(
        self, rig: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torn = _torn(BoundContext.enqueue, after=1)  # the second is the one that is recorded
        with rig.open(graph_after=1) as engine:
            with monkeypatch.context() as patch:
                patch.setattr(BoundContext, "enqueue", torn)
                with pytest.raises(KeyboardInterrupt):
                    engine.run(rig.feeds(3, 4))
            assert idle(rig), "the stream would record the next call"
            for _ in range(3):
                rig.check(engine, 3, 4)
            assert engine.statistics().graph_launches > 0
        assert rig.cuda.leaks() == {}

    def test_a_call_on_device_memory_that_is_torn_off_frees_its_outputs(
        self, rig: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fed = {name: borrowed(rig, array)[0] for name, array in rig.feeds(2, 3).items()}
        with rig.open() as engine:
            held = rig.cuda.leaks()
            with monkeypatch.context() as patch:
                patch.setattr(DeviceRun, "outputs", _torn(DeviceRun.outputs, after=0))
                with pytest.raises(KeyboardInterrupt):
                    engine.run_dlpack(fed)
            gc.collect()
            assert rig.cuda.leaks() == held


def _torn(function: Any, *, after: int) -> Any:
    calls = iter(range(1_000_000))

    def call(*args: Any, **named: Any) -> Any:
        if next(calls) >= after:
            raise KeyboardInterrupt
        return function(*args, **named)

    return call


def test_outputs_of_a_failed_call_are_freed_while_no_other_call_is_recorded(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = {name: borrowed(rig, array)[0] for name, array in rig.feeds(2, 3).items()}
    held: list[bool] = []
    abandon = DeviceRun.abandon
    with rig.open(lanes=1) as engine:
        (lane,) = engine._lanes

        def noting(call: DeviceRun) -> None:
            held.append(lane._lock.locked())
            abandon(call)

        monkeypatch.setattr(DeviceRun, "abandon", noting)
        rig.trt.faults = {"execute"}
        with pytest.raises(DeviceError, match="cannot run the plan"):
            engine.run_dlpack(fed)
        rig.trt.faults = set()
    assert held == [True]


class TestOutputsOnTheGpu:
    def test_memory_outlives_the_work_of_every_consumer(self, rigs: ModuleType, fakes: Any) -> None:
        for seed in range(8):
            rig = rigs.Rig(fakes, "tensorrt-11.4.0.106", seed=seed)
            facade = Cuda(rig.cuda)
            streams = [facade.create_stream() for _ in range(4)]
            memory = DeviceMemory(facade, 0, 8, streams[0])
            facade.synchronize(streams[0])
            for stream in streams[1:]:
                memory.used_on(stream)
            for stream in streams[1:]:
                work = rig.cuda.stream(stream)
                for _ in range(5):  # fails on memory that was freed
                    work.push(functools.partial(rig.cuda.span, memory.address, 8))
            memory.free()
            for stream in reversed(streams):
                facade.synchronize(stream)
                facade.destroy_stream(stream)
            assert rig.cuda.leaks() == {}

    def test_the_default_stream_of_a_thread_is_refused(self, rig: Any) -> None:
        tensor, *_ = borrowed(rig, np.zeros(4, np.float32))
        with pytest.raises(BufferError, match="stream 2 is another one in each thread"):
            tensor.__dlpack__(stream=2)
        with rig.open() as engine, pytest.raises(FeedError, match="stream 2 is another one"):
            engine.run_dlpack({"ids": tensor, "mask": tensor}, stream=2)

    @pytest.mark.parametrize("stream", [-1, "7", 1.0, True], ids=repr)
    def test_a_stream_is_a_handle(self, rig: Any, stream: Any) -> None:
        tensor, *_ = borrowed(rig, np.zeros(4, np.float32))
        with rig.open() as engine, pytest.raises(FeedError, match="the handle of a CUDA stream"):
            engine.run_dlpack({"ids": tensor, "mask": tensor}, stream=stream)

    def test_a_stream_that_records_a_graph_is_refused(self, rig: Any) -> None:
        tensor, _, stream = borrowed(rig, np.ones((2, 3), np.int64))
        facade = Cuda(rig.cuda)
        with rig.open() as engine:
            facade.begin_capture(stream)
            with pytest.raises(FeedError, match=f"stream {stream} records a CUDA graph"):
                engine.run_dlpack({"ids": tensor, "mask": tensor}, stream=stream)
            facade.destroy_graph(facade.end_capture(stream))
            outputs = engine.run_dlpack({"ids": tensor, "mask": tensor}, stream=stream)
            np.testing.assert_array_equal(outputs["pooled"].numpy(), [1, 1])

    def test_stream_0_is_the_default_stream(self, rig: Any) -> None:
        tensor, *_ = borrowed(rig, np.zeros(4, np.float32))
        assert taken("x", _Capsule(tensor.__dlpack__(stream=0)), 1).shape == (4,)


class _Capsule:
    """A tensor that lends one capsule."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, 0)

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule


class TestForeignCapsules:
    @pytest.mark.parametrize(
        ("code", "bits"), [(2, 8), (0, 24), (6, 16), (4, 16), (5, 64), (10, 8)]
    )
    def test_a_dtype_that_numpy_has_not_is_given_back(self, code: int, bits: int) -> None:
        dropped: list[int] = []
        managed, capsule = _made(code, bits, lambda _: dropped.append(1))
        with pytest.raises(FeedError, match=f"type code {code} of {bits} bits"):
            taken("x", _Capsule(capsule), None)
        assert dropped == [1]
        del managed

    @pytest.mark.parametrize("code", [2, 4])
    def test_a_capsule_may_need_no_deleter(self, code: int) -> None:
        managed, capsule = _made(code, 16, None)
        try:
            taken("x", _Capsule(capsule), None)
        except FeedError:
            assert code == 4
        del managed


def _made(code: int, bits: int, deleter: Any) -> tuple[Any, Any]:
    managed = dlpack._Managed()
    managed.tensor.data = 4096
    managed.tensor.device = dlpack._Device(CUDA, 0)
    managed.tensor.dtype = dlpack._DataType(code, bits, 1)
    if deleter is not None:
        managed.deleter = dlpack._Deleter(deleter)
    return managed, dlpack._python.PyCapsule_New(ctypes.addressof(managed), b"dltensor", None)


class TestBuffers:
    def test_they_grow_ahead_but_not_beyond_what_a_tensor_ever_takes(self, rig: Any) -> None:
        facade = Cuda(rig.cuda)
        buffers = BufferSet(facade, facade.create_stream(), {"x": 1000})
        sizes = [buffers.reserve("x", size).size for size in (300, 301, 602, 999, 1000)]
        assert sizes == [300, 600, 1000, 1000, 1000]
        assert [buffers.reserve("y", size).size for size in (300, 301)] == [300, 600]

    def test_an_engine_takes_what_its_largest_shapes_take(self, rig: Any) -> None:
        with rig.open(lanes=1) as engine:
            for batch, sequence in ((40, 40), (50, 50), (64, 64)):
                rig.check(engine, batch, sequence)
            inputs, outputs = 2 * 64 * 64 * 8, 64 * 4 + 64 * 64 * 2 * 2
            assert engine.statistics().buffer_bytes == inputs + outputs

    def test_they_are_counted_while_calls_add_to_them(self, rig: Any) -> None:
        facade = Cuda(rig.cuda)
        buffers = BufferSet(facade, facade.create_stream(), {})
        ended = threading.Event()
        faults: list[Exception] = []

        def count() -> None:
            while not ended.is_set():
                try:
                    assert buffers.bytes >= 0
                except RuntimeError as error:
                    faults.append(error)
                    return

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            thread = threading.Thread(target=count)
            thread.start()
            for number in range(1500):
                buffers.reserve(str(number), 1)
        finally:
            ended.set()
            thread.join()
            sys.setswitchinterval(interval)
        assert faults == []


class TestEnds:
    def test_an_engine_that_nobody_closed_gives_everything_back(self, rig: Any) -> None:
        engine = rig.open(graph_after=1)
        for _ in range(3):
            rig.check(engine, 3, 4)
        del engine
        gc.collect()
        assert rig.cuda.leaks() == {}

    def test_also_behind_work_that_its_caller_never_waited_for(self, rig: Any) -> None:
        lent = [borrowed(rig, array) for array in rig.feeds(2, 3).values()]
        engine = rig.open()
        tensors = {name: tensor for name, (tensor, *_) in zip(("ids", "mask"), lent, strict=True)}
        outputs = engine.run_dlpack(tensors, stream=lent[0][2])
        del engine, outputs
        gc.collect()
        for _, address, stream in lent:
            Cuda(rig.cuda).free(address, stream)
            Cuda(rig.cuda).destroy_stream(stream)
        assert rig.cuda.leaks() == {}

    def test_a_closed_engine_holds_no_weights(self, rig: Any) -> None:
        engine = rig.open()
        rig.check(engine, 3, 4)
        engine.close()
        gc.collect()
        plans = [item for item in gc.get_objects() if type(item).__name__ == "ICudaEngine"]
        rig.trt.contexts.clear()
        gc.collect()
        plans = [item for item in plans if engine in _owners(item)]
        assert plans == []

    def test_a_forked_process_is_told_and_touches_nothing(
        self, rig: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = rig.open(lanes=1)
        rig.check(engine, 3, 4)
        parent = os.getpid()
        calls = rig.cuda.calls.copy()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: parent + 1)
            # Held by a thread that was not forked along.
            with engine._lanes[0]._lock, pytest.raises(DeviceError, match="does not follow a fork"):
                engine.run(rig.feeds(3, 4))
            with pytest.raises(DeviceError, match=f"opened by the process {parent}"):
                engine.refit({})
            engine.close()
            assert rig.cuda.calls == calls
        rig.check(engine, 3, 4)
        engine.close()
        assert rig.cuda.leaks() == {}


def _owners(item: object) -> list[object]:
    return [holder for plan in gc.get_referrers(item) for holder in gc.get_referrers(plan)]
