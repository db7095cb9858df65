"""The executor on the CUDA runtime: a fake one here, the real one where there is a GPU.

TensorRT is replaced by a context that queues copies within the GPU, from inputs to outputs by way
of the workspace, so all but TensorRT is real on a GPU: streams, events, pinned memory, graphs.
"""

from __future__ import annotations

import importlib
import math
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fuselage.engines.base import ExecutorOptions
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.facts import PlanFacts

DIMS = ("batch", "sequence", 64)
TENSORS = {"x": ("float32", "y"), "n": ("int64", "m")}
"""Input -> its dtype and the output that repeats it."""
WORKSPACE = 64 << 20
REPEATS = 8
SHAPES = ((1, 1), (1, 128), (8, 32), (32, 128), (3, 77))


class CopyContext:
    """Copies each input to the workspace and from there to its output, several times."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._workspace = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return profile_index == 0 and stream_handle > 2

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size == WORKSPACE
        self._workspace = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = self._shapes[TENSORS[name][1]] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        statuses = []
        for source, (dtype, target) in TENSORS.items():
            size = math.prod(self._shapes[source]) * np.dtype(dtype).itemsize
            steps = [(self._workspace, self._addresses[source])]
            steps += [(self._addresses[target], self._workspace)]
            for to, origin in steps * REPEATS:
                statuses += self._api.cudaMemcpyAsync(to, origin, size, kind, stream_handle)
        return all(status.name == "cudaSuccess" for status in statuses)


def copying(api: Any, fakes: ModuleType) -> Any:
    """A module whose plans copy."""
    trt = fakes.FakeTensorRt("tensorrt", fakes.FakeCuda())
    names = {"x": "FLOAT", "y": "FLOAT", "n": "INT64", "m": "INT64"}
    modes = trt.TensorIOMode
    engine = SimpleNamespace(
        num_io_tensors=4,
        num_optimization_profiles=1,
        get_tensor_name=list(names).__getitem__,
        get_tensor_mode=lambda name: modes.INPUT if name in TENSORS else modes.OUTPUT,
        get_tensor_dtype=lambda name: trt.DataType[names[name]],
        get_tensor_location=lambda _: trt.TensorLocation.DEVICE,
        get_device_memory_size_for_profile_v2=lambda _: WORKSPACE,
        create_execution_context=lambda _: CopyContext(api),
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: engine)
    trt.Runtime = lambda _: runtime
    return trt


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def api(fakes: ModuleType, request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        return fakes.FakeCuda()
    if blocker := Cuda.blocker():
        pytest.skip(blocker)
    return importlib.import_module("cuda.bindings.runtime")


def open_engine(api: Any, fakes: ModuleType, **options: Any) -> TensorRtEngine:
    facts = {
        "target": "tensorrt", "package_version": "10.16.1.11", "compute_capabilities": [],
        "bytes": 4, "profile": {"batch": [1, 8, 32], "sequence": [1, 64, 128]},
        "inputs": [{"name": n, "dtype": d, "dims": DIMS} for n, (d, _) in TENSORS.items()],
        "outputs": [{"name": n, "dtype": d, "dims": DIMS} for d, n in TENSORS.values()],
    }  # fmt: skip
    executor = ExecutorOptions(**options)
    trt = copying(api, fakes)
    return TensorRtEngine.open(trt, Cuda(api), b"plan", PlanFacts.parse(facts), executor)


def feeds(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (*SHAPES[seed % len(SHAPES)], 64)
    return {
        "x": random.normal(size=shape).astype(np.float32),
        "n": random.integers(0, 1 << 40, shape),
    }


def check(outputs: dict[str, Any], fed: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(outputs["y"], fed["x"])
    np.testing.assert_array_equal(outputs["m"], fed["n"])


def test_every_answer_of_many_threads_is_right(api: Any, fakes: ModuleType) -> None:
    threads, calls = 8, 12

    def work(thread: int) -> None:
        for call in range(calls):
            fed = feeds(thread * calls + call)
            check(engine.run(fed), fed)

    with open_engine(api, fakes, graph_after=2) as engine, ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(threads)]:
            done.result()
        for _ in range(4):
            check(engine.run(feeds(2)), feeds(2))
        held = engine.statistics()
        assert held.calls == threads * calls + 4
        assert held.graph_launches > 0
        assert held.capture_failures == 0
        assert engine.notes == ()


def test_buckets_and_graphs(api: Any, fakes: ModuleType) -> None:
    buckets = {"batch": (1, 8, 32), "sequence": (32, 128)}
    with open_engine(api, fakes, graph_after=1, buckets=buckets) as engine:
        for seed in (3, *range(20)):
            check(engine.run(feeds(seed)), feeds(seed))
        assert engine.statistics().graph_launches > 10


@pytest.mark.gpu
def test_tensors_of_torch_on_its_own_stream(fakes: ModuleType) -> None:
    if blocker := Cuda.blocker():
        pytest.skip(blocker)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    stream = torch.cuda.Stream()
    api = importlib.import_module("cuda.bindings.runtime")
    with open_engine(api, fakes) as engine:
        for seed in range(40):
            fed = feeds(seed)
            with torch.cuda.stream(stream):
                tensors = {name: torch.from_numpy(array).cuda() for name, array in fed.items()}
                outputs = engine.run_dlpack(tensors, stream=stream.cuda_stream)
                found = {name: torch.from_dlpack(t) * 1 for name, t in outputs.items()}
            del outputs, tensors
            check({name: tensor.cpu().numpy() for name, tensor in found.items()}, fed)
