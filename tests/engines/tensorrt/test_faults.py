"""Each CUDA call of an engine's life fails once: a clear error, then right answers again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.executor.device_tensor import DeviceTensor
from fuselage.engines.tensorrt.executor.dlpack import CUDA, DeviceView
from fuselage.errors import DeviceError

RELEASES = ("cudaFree", "cudaStreamDestroy", "cudaEventDestroy", "cudaGraphDestroy")
RELEASES += ("cudaGraphExecDestroy",)


def staged(rig: Any, engine: TensorRtEngine) -> None:
    """A new shape, its graph recorded, launched, and dropped for larger buffers."""
    for batch, sequence in ((2, 4), (2, 4), (8, 16), (2, 4), (2, 4)):
        rig.check(engine, batch, sequence)


def on_device(rig: Any, engine: TensorRtEngine) -> None:
    """Aligned and crooked tensors, with the caller's stream and without."""
    fed = rig.feeds(2, 3)
    facade = Cuda(rig.cuda)
    tensors = {}
    for offset, (name, array) in enumerate(fed.items()):
        address = rig.blocks[name] + 64 * offset
        rig.cuda.span(address, array.nbytes)[:] = array.tobytes()
        view = DeviceView(address, array.shape, array.dtype, (CUDA, 0), contiguous=True)
        tensors[name] = DeviceTensor(facade, view, rig, rig.stream)
    for stream in (rig.stream, None):
        outputs = engine.run_dlpack(tensors, stream=stream)
        rig.compare({name: tensor.numpy() for name, tensor in outputs.items()}, fed)


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """Garbage of a scenario is collected by itself: all else in the process would take a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=["tensorrt-10.16.1.11", "tensorrt_rtx-1.7.1.116"])
def make(rigs: ModuleType, fakes: ModuleType, request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Rigs with memory of another library."""

    def new() -> Any:
        rig = rigs.Rig(fakes, request.param)
        facade = Cuda(rig.cuda)
        rig.stream = facade.create_stream()
        rig.blocks = {name: facade.allocate(4096, rig.stream) for name in ("ids", "mask")}
        facade.synchronize(rig.stream)
        return rig

    return new


def scenario(rig: Any, work: Callable[[Any, TensorRtEngine], None], number: int) -> bool:
    """Fail one call of an engine's life; whether there were so many."""
    foreign = rig.cuda.leaks()
    rig.cuda.fail_at(number, rig.fakes.Status.cudaErrorMemoryAllocation)
    engine = unless_refused(lambda: rig.open(graph_after=1))
    if engine is not None:
        unless_refused(lambda: work(rig, engine))
        if rig.cuda.failed is not None:
            work(rig, engine)  # the engine is as good as before
        engine.close()
    gc.collect()
    if rig.cuda.failed is None or not rig.cuda.failed.startswith(RELEASES):
        assert rig.cuda.leaks() == foreign, rig.cuda.failed
    return rig.cuda.failed is not None


def unless_refused(step: Callable[[], Any]) -> Any:
    """What a step gives, or None when it fails with our error that names the status."""
    try:
        return step()
    except DeviceError as error:
        if "cudaErrorMemoryAllocation (2)" not in str(error):
            raise
        return None


@pytest.mark.parametrize("work", [staged, on_device])
def test_any_one_call_may_fail(
    make: Callable[[], Any], work: Callable[[Any, TensorRtEngine], None]
) -> None:
    number = 1
    while scenario(make(), work, number):
        number += 1
    assert number > 90, "the scenario has become too short to mean anything"


@pytest.mark.parametrize("work", [staged, on_device])
def test_a_gpu_lost_at_any_call_ends_the_engine_with_the_reason(
    make: Callable[[], Any], work: Callable[[Any, TensorRtEngine], None]
) -> None:
    for number in range(1, 200, 7):
        rig = make()
        rig.cuda.fail_at(number, rig.fakes.Status.cudaErrorIllegalAddress)
        with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress \(700\)"):
            run_until_lost(rig, work)


def run_until_lost(rig: Any, work: Callable[[Any, TensorRtEngine], None]) -> None:
    engine = rig.open(graph_after=1)
    try:
        work(rig, engine)
        while rig.cuda.failed is None:
            work(rig, engine)
    except DeviceError:
        # What CUDA says of such a status is true of the whole process from then on.
        rig.cuda.lost = rig.fakes.Status.cudaErrorIllegalAddress
        with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress \(700\)"):
            engine.run(rig.feeds(1, 1))
        with pytest.raises(DeviceError, match="lost its GPU"):
            engine.run(rig.feeds(1, 1))
        raise
    finally:
        engine.close()
    # Releases swallow their status; the next call would have met it.
    assert rig.cuda.failed.startswith(RELEASES)
    raise DeviceError("a release met cudaErrorIllegalAddress (700)")


def test_memory_that_is_not_there_is_named(rigs: ModuleType, fakes: ModuleType) -> None:
    rig = rigs.Rig(fakes, "tensorrt-11.4.0.106")
    rig.cuda.fail("cudaMallocAsync", fakes.Status.cudaErrorMemoryAllocation)
    with pytest.raises(DeviceError, match=r"allocate 1,024 bytes on the GPU: .*smaller batch"):
        rig.open()
    assert rig.cuda.leaks() == {}
