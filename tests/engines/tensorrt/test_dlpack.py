"""GPU memory of other libraries in and out: without copies, in the order of the caller's stream."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.executor import dlpack
from fuselage.engines.tensorrt.executor.device_tensor import DeviceTensor
from fuselage.engines.tensorrt.executor.dlpack import CUDA, LEGACY_STREAM, DeviceView, taken
from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.errors import DeviceError, FeedError

CPU = (1, 0)


class Library:
    """Another library with tensors on the fake GPU."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.facade = Cuda(cuda)
        self.stream = self.facade.create_stream()
        self._blocks: list[int] = []

    def tensor(self, array: np.ndarray, offset: int = 0) -> DeviceTensor:
        """A tensor whose content is still being written on the library's stream."""
        address = self.facade.allocate(array.nbytes + offset, self.stream) + offset
        self._blocks.append(address - offset)
        content = np.ascontiguousarray(array).tobytes()

        def write() -> None:
            self.cuda.span(address, len(content))[:] = content

        with self.cuda.gpu:
            self.cuda.stream(self.stream).push(write)
        view = DeviceView(address, array.shape, array.dtype, (CUDA, 0), contiguous=True)
        return DeviceTensor(self.facade, view, self, self.stream)

    def close(self) -> None:
        for address in self._blocks:
            self.facade.free(address, self.stream)
        self.facade.destroy_stream(self.stream)


@pytest.fixture(params=range(4))
def seeded(rigs: ModuleType, fakes: ModuleType, request: pytest.FixtureRequest) -> Any:
    """A Rig whose streams take another order each."""
    return rigs.Rig(fakes, "tensorrt-11.4.0.106", seed=request.param)


@pytest.mark.parametrize("ordered", [True, False], ids=["caller-stream", "no-stream"])
@pytest.mark.parametrize("offset", [0, 64], ids=["aligned", "crooked"])
def test_device_memory_in_and_out(seeded: Any, ordered: bool, offset: int) -> None:
    library = Library(seeded.cuda)
    stream = library.stream if ordered else None
    with seeded.open() as engine:
        for seed, (batch, sequence) in enumerate(((3, 7), (3, 7), (9, 30), (1, 1))):
            fed = seeded.feeds(batch, sequence, seed)
            tensors = {name: library.tensor(array, offset) for name, array in fed.items()}
            outputs = engine.run_dlpack(tensors, stream=stream)
            seeded.compare({name: tensor.numpy() for name, tensor in outputs.items()}, fed)
        assert seeded.cuda.leaks().get("pinned", 0) == (4 - 2 if offset else 0), "nothing is staged"
    del outputs, tensors
    library.close()
    assert seeded.cuda.leaks() == {}


def test_a_caller_with_a_stream_never_waits_on_the_host(rig: Any) -> None:
    library = Library(rig.cuda)
    with rig.open() as engine:
        fed = {name: library.tensor(array) for name, array in rig.feeds(2, 3).items()}
        waited = rig.cuda.calls["cudaStreamSynchronize"]
        outputs = engine.run_dlpack(fed, stream=library.stream)
        assert rig.cuda.calls["cudaStreamSynchronize"] == waited
        assert sum(context._executions for context in rig.trt.contexts) == 0, "it is queued only"
        engine.run_dlpack(fed)
        assert rig.cuda.calls["cudaStreamSynchronize"] == waited + 1
        assert sum(context._executions for context in rig.trt.contexts) == 2
    rig.compare({name: tensor.numpy() for name, tensor in outputs.items()}, rig.feeds(2, 3))


def test_the_default_stream_of_another_library_is_one_like_any_other(rig: Any) -> None:
    library = Library(rig.cuda)
    with rig.open() as engine:
        fed = rig.feeds(2, 3)
        tensors = {name: library.tensor(array) for name, array in fed.items()}
        for tensor in tensors.values():
            tensor._order(LEGACY_STREAM)
        outputs = engine.run_dlpack(tensors, stream=0)  # torch's handle of the default stream
        rig.compare({name: tensor.numpy() for name, tensor in outputs.items()}, fed)


def test_staged_calls_and_calls_on_device_memory_mix(seeded: Any) -> None:
    library = Library(seeded.cuda)
    with seeded.open(lanes=1, graph_after=1) as engine:
        for seed in range(6):
            fed = seeded.feeds(4, 8, seed)
            # Crooked inputs are copied to the slot's buffers, which the next call takes over
            # while this one is queued still.
            tensors = {name: library.tensor(array, 64) for name, array in fed.items()}
            outputs = engine.run_dlpack(tensors, stream=library.stream)
            seeded.check(engine, 4, 8, seed + 100)
            seeded.compare({name: tensor.numpy() for name, tensor in outputs.items()}, fed)


def test_threads_mix_both_kinds_of_calls(seeded: Any) -> None:
    def work(thread: int) -> None:
        library = Library(seeded.cuda)
        for call in range(10):
            fed = seeded.feeds(1 + (thread + call) % 5, 4 + call % 3, 100 * thread + call)
            if (thread + call) % 2:
                seeded.compare(engine.run(fed), fed)
                continue
            tensors = {name: library.tensor(array, 64 * (call % 2)) for name, array in fed.items()}
            outputs = engine.run_dlpack(tensors, stream=library.stream if call % 3 else None)
            seeded.compare({name: tensor.numpy() for name, tensor in outputs.items()}, fed)
            del outputs, tensors
        library.close()

    with seeded.open(graph_after=1) as engine, ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, thread) for thread in range(6)]:
            done.result()
    gc.collect()
    assert seeded.cuda.leaks() == {}


def test_a_refit_waits_for_a_run_that_is_left_to_its_stream(rig: Any) -> None:
    library = Library(rig.cuda)
    rig.trt.model.weights["scale"] = np.float32([1])
    fed = rig.feeds(2, 3)
    with rig.open() as engine:
        tensors = {name: library.tensor(array) for name, array in fed.items()}
        outputs = engine.run_dlpack(tensors, stream=library.stream)
        assert sum(context._executions for context in rig.trt.contexts) == 0
        engine.refit({"scale": np.float32([2])})
        assert sum(context._executions for context in rig.trt.contexts) == 1
    rig.compare({name: tensor.numpy() for name, tensor in outputs.items()}, fed)


def test_outputs_live_as_long_as_somebody_holds_them(rig: Any) -> None:
    library = Library(rig.cuda)
    engine = rig.open()
    fed = rig.feeds(2, 3)
    tensors = {name: library.tensor(array) for name, array in fed.items()}
    outputs = engine.run_dlpack(tensors, stream=library.stream)
    borrowed = {name: taken(name, tensor, library.stream) for name, tensor in outputs.items()}
    engine.close()
    kept = DeviceTensor(Cuda(rig.cuda), borrowed["hidden"], borrowed["hidden"], library.stream)
    del outputs, borrowed
    gc.collect()
    np.testing.assert_array_equal(kept.numpy()[..., 0], fed["ids"] * fed["mask"])
    del kept, tensors
    gc.collect()
    library.close()
    assert rig.cuda.leaks() == {}


def test_a_consumer_on_another_stream_waits_for_the_output(seeded: Any) -> None:
    library, other = Library(seeded.cuda), Library(seeded.cuda)
    with seeded.open() as engine:
        fed = seeded.feeds(5, 9)
        tensors = {name: library.tensor(array) for name, array in fed.items()}
        outputs = engine.run_dlpack(tensors, stream=library.stream)
        hidden = outputs["hidden"]
        capsule = hidden.__dlpack__(stream=other.stream)
        view = DeviceView(
            hidden._view.address, hidden.shape, hidden.dtype, (CUDA, 0), contiguous=True
        )
        found = DeviceTensor(other.facade, view, capsule, other.stream).numpy()
        np.testing.assert_array_equal(found[..., 0], fed["ids"] * fed["mask"])


@pytest.mark.parametrize("fault", ["execute", "infer", "address", "cudaMallocAsync"])
def test_a_failed_call_frees_its_outputs_and_the_engine_recovers(rig: Any, fault: str) -> None:
    library = Library(rig.cuda)
    with rig.open() as engine:
        tensors = {name: library.tensor(array) for name, array in rig.feeds(2, 3).items()}
        held = rig.cuda.leaks()
        if fault.startswith("cuda"):
            rig.cuda.fail(fault, rig.fakes.Status.cudaErrorMemoryAllocation)
        rig.trt.faults = {fault}
        with pytest.raises(DeviceError, match="cannot"):
            engine.run_dlpack(tensors, stream=library.stream)
        rig.trt.faults = set()
        assert rig.cuda.leaks() == held
        outputs = engine.run_dlpack(tensors, stream=library.stream)
        rig.compare({name: tensor.numpy() for name, tensor in outputs.items()}, rig.feeds(2, 3))


class TestRefusals:
    def test_memory_of_the_cpu(self, rig: Any) -> None:
        with rig.open() as engine, pytest.raises(FeedError, match=r"CUDA device 0, got .*\(1, 0\)"):
            engine.run_dlpack(rig.feeds(2, 3))

    def test_memory_of_another_gpu(self, rig: Any) -> None:
        library = Library(rig.cuda)
        tensors = {name: library.tensor(array) for name, array in rig.feeds(2, 3).items()}
        rig.cuda.cudaSetDevice(1)
        with rig.open() as engine, pytest.raises(FeedError, match=r"device 1, got .*\(2, 0\)"):
            engine.run_dlpack(tensors, stream=library.stream)

    @pytest.mark.parametrize("thing", [3, [1, 2], None])
    def test_what_is_no_tensor(self, rig: Any, thing: object) -> None:
        with rig.open() as engine, pytest.raises(FeedError, match="expected a DLPack tensor, got"):
            engine.run_dlpack({"ids": thing, "mask": thing})

    def test_another_dtype_shape_and_size(self, rig: Any) -> None:
        library = Library(rig.cuda)
        good = library.tensor(np.zeros((2, 3), np.int64))
        with rig.open() as engine:
            for array, message in (
                (np.zeros((2, 3), np.int32), "expected dtype int64, got int32"),
                (np.zeros((2, 4), np.int64), "has size 4, expected 3"),
                (np.zeros((2,), np.int64), "expected rank 2"),
            ):
                with pytest.raises(FeedError, match=message):
                    engine.run_dlpack({"ids": good, "mask": library.tensor(array)})

    def test_strides(self) -> None:
        view = taken("x", np.zeros((4, 6), np.float32)[:, ::2], None)
        assert not view.contiguous
        view.device = (CUDA, 0)
        with pytest.raises(FeedError, match="C-contiguous"):
            view.checked("x", 0)


class TestCapsules:
    """Our half of the protocol against numpy's and torch's, in memory of the CPU."""

    ARRAYS = (
        np.arange(24, dtype=np.int64).reshape(2, 3, 4),
        np.float16([[0.5, -1.0]]),
        np.array(7, np.int32),
        np.uint8([1, 2, 3]),
        np.bool_([True, False]),
    )

    @pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.dtype.name)
    def test_numpy_takes_what_we_lend(self, array: np.ndarray) -> None:
        owner = Held(array)
        alive = owner.alive
        lent = Lender(array, owner)
        del owner
        taken_over = np.from_dlpack(lent)
        del lent
        gc.collect()
        assert alive == [True], "the consumer keeps the owner alive"
        np.testing.assert_array_equal(taken_over, array)
        assert taken_over.dtype == array.dtype
        assert np.shares_memory(taken_over, array)
        del taken_over
        gc.collect()
        assert alive == []

    @pytest.mark.parametrize("array", ARRAYS, ids=lambda array: array.dtype.name)
    def test_we_take_what_numpy_lends(self, array: np.ndarray) -> None:
        view = taken("x", array, None)
        assert (view.address, view.shape, view.dtype) == (
            array.ctypes.data,
            array.shape,
            array.dtype,
        )
        assert view.device == CPU
        assert view.contiguous

    def test_torch_takes_what_we_lend(self) -> None:
        torch = pytest.importorskip("torch")
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        tensor = torch.from_dlpack(Lender(array, Held(array)))
        tensor[0, 0] = 9
        assert array[0, 0] == 9

    def test_an_unused_capsule_lets_its_owner_go(self) -> None:
        owner = Held(np.zeros(3))
        alive = owner.alive
        capsule = Lender(owner.array, owner).__dlpack__()
        del owner
        gc.collect()
        assert alive == [True]
        del capsule
        gc.collect()
        assert alive == []

    def test_a_capsule_is_taken_once(self) -> None:
        capsule = np.zeros(3).__dlpack__()
        once = type(
            "Once", (), {"__dlpack__": lambda *_: capsule, "__dlpack_device__": lambda _: CPU}
        )
        taken("x", once(), None)
        with pytest.raises(FeedError, match="nobody has used yet"):
            taken("x", once(), None)

    def test_types_that_numpy_has_not_are_refused(self) -> None:
        with pytest.raises(FeedError, match="DLPack type code 5 of 128 bits"):
            taken("x", np.zeros(3, np.complex128), None)


class Held:
    """Something a consumer must keep alive."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.alive = [True]

    def __del__(self) -> None:
        self.alive.clear()


class Lender:
    def __init__(self, array: np.ndarray, owner: Held) -> None:
        self._view = DeviceView(array.ctypes.data, array.shape, array.dtype, CPU, contiguous=True)
        self._owner = owner

    def __dlpack__(self, **_: object) -> Any:
        return dlpack.capsule(self._view, self._owner)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU


@pytest.mark.parametrize("offset", [0, 64], ids=["aligned", "crooked"])
def test_a_cache_is_updated_where_it_lies(fakes: ModuleType, offset: int) -> None:
    inputs = {"ids": ("int64", ("batch", 1)), "past": ("float16", ("batch", 6))}
    outputs = {"logits": ("float32", ("batch",)), "present": ("float16", ("batch", 6))}

    def append(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        present = feeds["past"].copy()
        present[:, 2:3] = feeds["ids"]
        return {"logits": present.sum(axis=1), "present": present}

    cuda = fakes.FakeCuda()
    trt = fakes.FakeTensorRt("tensorrt_rtx", cuda, fakes.FakeModel(inputs, outputs, append))
    content = {
        "target": "tensorrt-rtx", "package_version": "1", "compute_capabilities": [], "bytes": 11,
        "profile": {"batch": [1, 2, 4]}, "caches": {"present": "past"},
        "inputs": [{"name": n, "dtype": d, "dims": s} for n, (d, s) in inputs.items()],
        "outputs": [{"name": n, "dtype": d, "dims": s} for n, (d, s) in outputs.items()],
    }  # fmt: skip
    library = Library(cuda)
    past = np.arange(12, dtype=np.float16).reshape(2, 6)
    with TensorRtEngine.open(trt, Cuda(cuda), fakes.PLAN, PlanFacts.parse(content)) as engine:
        cache = library.tensor(past, offset)
        for token in (70, 71):
            ids = library.tensor(np.full((2, 1), token))
            answer = engine.run_dlpack({"ids": ids, "past": cache}, stream=library.stream)
            past[:, 2] = token
            present = answer["present"]
            assert present._view.address == cache._view.address
            np.testing.assert_array_equal(present.numpy(), past)
            np.testing.assert_array_equal(cache.numpy(), past)
            np.testing.assert_array_equal(answer["logits"].numpy(), past.sum(axis=1))
