"""The executor on a fake GPU: real numbers, strict about misuse."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fuselage.engines.base import BuildConfig, LoadOptions
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.errors import (
    BuildError,
    BundleError,
    DeviceError,
    FeedError,
    MissingPackageError,
)
from fuselage.graph.tensors import ShapeProfile


def test_answers_for_changing_shapes_and_leaks_nothing(rig: Any) -> None:
    with rig.open() as engine:
        assert [spec.name for spec in engine.inputs] == ["ids", "mask"]
        for batch, sequence in ((3, 7), (1, 1), (64, 64), (5, 13), (3, 7)):
            rig.check(engine, batch, sequence)
        assert sum(context._executions for context in rig.trt.contexts) == 5
    assert rig.cuda.leaks() == {}


def test_buffers_are_reused_and_grow(rig: Any) -> None:
    with rig.open() as engine:
        workspaces = rig.cuda.allocations
        assert workspaces == 2, "one a lane"
        rig.check(engine, 4, 8)
        assert rig.cuda.allocations == workspaces + 4
        rig.check(engine, 4, 8)
        rig.check(engine, 2, 3)
        assert rig.cuda.allocations == workspaces + 4
        rig.check(engine, 5, 8)
        assert rig.cuda.allocations == workspaces + 8
        rig.check(engine, 8, 8)
        assert rig.cuda.allocations == workspaces + 8, "growth must at least double a buffer"
        # Two lanes of one stream and two slots, each with a stream, two events and its buffers.
        assert rig.cuda.leaks() == {"memory": 6, "pinned": 4, "streams": 6, "events": 8}


def test_outputs_are_new_arrays(rig: Any) -> None:
    with rig.open() as engine:
        first = rig.check(engine, 2, 5)
        kept = {name: array.copy() for name, array in first.items()}
        rig.check(engine, 3, 5)
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_takes_arrays_that_are_not_contiguous(rig: Any) -> None:
    fed = rig.feeds(4, 6)
    strided = {name: np.asfortranarray(array) for name, array in fed.items()}
    with rig.open() as engine:
        np.testing.assert_array_equal(engine.run(strided)["hidden"], engine.run(fed)["hidden"])


def test_threads_take_turns(rig: Any) -> None:
    failures: list[BaseException] = []

    def work(batch: int) -> None:
        try:
            for sequence in (1, 9, 30):
                rig.check(engine, batch, sequence)
        except BaseException as error:
            failures.append(error)

    with rig.open() as engine:
        threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 5, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert rig.cuda.leaks() == {}


def test_runs_on_the_device_it_was_opened_on_from_any_thread(rig: Any) -> None:
    rig.cuda.cudaSetDevice(1)
    answers = []
    with rig.open() as engine:
        thread = threading.Thread(target=lambda: answers.append(rig.check(engine, 2, 2)))
        thread.start()
        thread.join()
    assert len(answers) == 1


def test_close_is_idempotent_and_ends_the_engine(rig: Any) -> None:
    engine = rig.open()
    engine.close()
    engine.close()
    assert rig.cuda.leaks() == {}
    with pytest.raises(DeviceError, match=f"this {rig.content['target']} engine is closed"):
        engine.run(rig.feeds(1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, r"missing \['mask'\]"),
        ({"ids": np.zeros((2, 3), np.int32)}, "expected dtype int64, got int32"),
        ({"ids": np.zeros((2, 3, 1), np.int64)}, "expected rank 2"),
        ({"ids": np.zeros((2, 65), np.int64), "mask": np.ones((2, 65), np.int64)}, "1 to 64"),
    ],
)
def test_wrong_feeds_are_refused_before_the_gpu_sees_them(
    rig: Any, change: dict[str, np.ndarray | None], message: str
) -> None:
    fed = {name: array for name, array in (rig.feeds(2, 3) | change).items() if array is not None}
    with rig.open() as engine:
        opened = rig.cuda.allocations
        with pytest.raises(FeedError, match=message):
            engine.run(fed)
        assert rig.cuda.allocations == opened


@pytest.mark.parametrize("step", ["shape", "infer", "infer-raises", "address", "execute"])
def test_a_failing_step_carries_the_log_and_the_engine_recovers(rig: Any, step: str) -> None:
    with rig.open() as engine:
        rig.trt.faults = {step}
        with pytest.raises(DeviceError, match=f"cannot .*the reason for {step}"):
            engine.run(rig.feeds(2, 3))
        rig.trt.faults = set()
        rig.check(engine, 2, 3)
    assert rig.cuda.leaks() == {}


@pytest.mark.parametrize("call", ["cudaMallocAsync", "cudaHostAlloc"])
def test_out_of_memory_says_what_to_do_and_the_engine_recovers(rig: Any, call: str) -> None:
    out_of_memory = rig.fakes.Status.cudaErrorMemoryAllocation
    with rig.open() as engine:
        rig.cuda.fail(call, out_of_memory)
        with pytest.raises(
            DeviceError, match=r"cannot allocate 48 bytes.*cudaErrorMemoryAllocation \(2\).*smaller"
        ):
            engine.run(rig.feeds(2, 3))
        rig.check(engine, 2, 3)
    assert rig.cuda.leaks() == {}


def test_growth_falls_back_to_the_size_that_is_needed(rig: Any) -> None:
    with rig.open() as engine:
        rig.check(engine, 4, 8)
        rig.cuda.fail("cudaMallocAsync", rig.fakes.Status.cudaErrorMemoryAllocation)
        rig.check(engine, 4, 9)
        sizes = [len(block.bytes) for block in rig.cuda.memory.values()]
        assert sizes.count(4 * 9 * 8) == 1, "the doubled size did not fit, the needed one did"
        assert sizes.count(2 * 4 * 8 * 8) == 1, "the other input took the doubled size"


def test_a_fatal_cuda_error_is_reported_and_close_still_works(rig: Any) -> None:
    illegal = rig.fakes.Status.cudaErrorIllegalAddress
    engine = rig.open()
    rig.cuda.fail("cudaStreamSynchronize", illegal, illegal, illegal)
    with pytest.raises(DeviceError, match=r"cudaErrorIllegalAddress \(700\).*new process"):
        engine.run(rig.feeds(2, 3))
    rig.cuda.fail("cudaFreeAsync", *[illegal] * 4)
    engine.close()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "deserialize",
            r"on this SM89 GPU: the reason for deserialize; version, SM, GPU and driver are",
        ),
        ("context", "cannot create an execution context: the reason for context; .* smaller"),
    ],
)
def test_a_plan_that_does_not_open_leaves_nothing_behind(rig: Any, step: str, message: str) -> None:
    rig.trt.faults = {step}
    with pytest.raises(DeviceError, match=message):
        rig.open()
    assert rig.cuda.leaks() == {}


def test_sizes_that_depend_on_values_are_named(rig: Any) -> None:
    rig.trt.model.outputs["hidden"] = ("float16", ("batch", "found", 2))
    rig.content["outputs"][1]["dims"] = ["batch", "found", 2]
    with rig.open() as engine, pytest.raises(DeviceError, match=r"'hidden' depends on the values"):
        engine.run(rig.feeds(2, 3))
    assert rig.cuda.leaks() == {}


def test_a_tensor_in_the_memory_of_the_cpu_is_refused(rig: Any) -> None:
    rig.trt.on_host = {"mask"}
    with pytest.raises(DeviceError, match="the plan wants 'mask' in the memory of the CPU"):
        rig.open()
    assert rig.cuda.leaks() == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4", "float4_e2m1fn"])
def test_a_type_that_numpy_has_not_is_refused(rig: Any, dtype: str) -> None:
    rig.trt.model.outputs["hidden"] = (dtype, ("batch", "sequence", 2))
    rig.content["outputs"][1]["dtype"] = dtype
    with pytest.raises(DeviceError, match=rf"the tensor hidden: {dtype}\[.*casts it to float16"):
        rig.open()
    assert rig.cuda.leaks() == {}


def test_facts_of_another_plan_are_refused(rig: Any) -> None:
    rig.content["outputs"][0] = {"name": "pooled", "dtype": "float16", "dims": ["batch"]}
    with pytest.raises(BundleError, match=r"'pooled', 'float16'.*'pooled', 'float32'"):
        rig.open()
    assert rig.cuda.leaks() == {}


MACHINE = {"gpu": "NVIDIA L4", "compute_capability": "SM89", "driver": "13.0"}


@pytest.mark.parametrize(
    ("change", "built_on", "message"),
    [
        ({"package_version": "9.1"}, {}, r"version: expected tensorrt\S* 9\.1, got 1"),
        (
            {"compute_capabilities": ["SM80", "SM90"]},
            {},
            "compute capability: expected SM80, SM90, got SM89",
        ),
        (
            {"compute_capabilities": []},
            {"compute_capability": "SM90"},
            "compute capability: expected SM90, got",
        ),
        ({}, {"gpu": "NVIDIA H200"}, "GPU: expected NVIDIA H200, got NVIDIA L4"),
        ({}, {"driver": "13.10"}, r"driver: expected .*CUDA 13\.10.*, got CUDA 13\.0"),
    ],
)
def test_what_differs_is_named_field_by_field(
    rig: Any, change: dict[str, Any], built_on: dict[str, str], message: str
) -> None:
    rig.content |= change
    rig.content["built_on"] = MACHINE | built_on
    with rig.open() as engine:
        assert len(engine.notes) == 1
        assert re.search(message, engine.notes[0])
    rig.trt.faults = {"deserialize"}
    with pytest.raises(DeviceError, match=rf"the reason for deserialize; {message}[^;]*; rebuild"):
        rig.open()


def test_the_same_machine_differs_in_nothing(rig: Any) -> None:
    rig.content["built_on"] = MACHINE
    rig.cuda.driver = 13020  # newer than the one it was made with
    with rig.open() as engine:
        assert engine.notes == ()


def test_an_invalid_plan_names_the_reasons(rtx: Any) -> None:
    rtx.trt.validity = (rtx.fakes.EngineValidity.INVALID, 2 | 4)
    rtx.content["compute_capabilities"] = ["SM80"]
    why = r"SM89 GPU \(UNSUPPORTED_CC, OLD_CUDA_DRIVER\); compute capability: expected SM80, got"
    with pytest.raises(DeviceError, match=why):
        rtx.open()
    rtx.trt.validity = (rtx.fakes.EngineValidity.INVALID, 32)
    with pytest.raises(BundleError, match="MALFORMED_ENGINE"):
        rtx.open()


def test_a_suboptimal_plan_runs_with_a_note(rtx: Any) -> None:
    rtx.trt.validity = (rtx.fakes.EngineValidity.SUBOPTIMAL, 1)
    with rtx.open() as engine:
        rtx.check(engine, 2, 3)
        assert len(engine.notes) == 1
        assert "not the best for it (VERSION_MISMATCH)" in engine.notes[0]


def install(rig: Any, patch: pytest.MonkeyPatch) -> TensorRtBackend:
    patch.setitem(sys.modules, rig.package, rig.trt)
    patch.setitem(sys.modules, "cuda.bindings.runtime", rig.cuda)
    return TensorRtBackend.of(str(rig.content["target"]))


def test_the_backend_loads_a_folder(
    rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = install(rig, monkeypatch)
    assert backend.run_blocker() is None
    with backend.load(rig.folder(tmp_path), LoadOptions()) as engine:
        assert isinstance(engine, TensorRtEngine)
        assert engine.target == backend.target
        rig.check(engine, 3, 4)


def test_a_damaged_folder_is_refused(
    rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = install(rig, monkeypatch)
    with pytest.raises(BundleError, match=r"engine\.json: cannot be read"):
        backend.load(tmp_path, LoadOptions())
    rig.folder(tmp_path)
    (tmp_path / "engine.plan").write_bytes(b"short")
    with pytest.raises(BundleError, match="expected 11 bytes, got 5"):
        backend.load(tmp_path, LoadOptions())
    (tmp_path / "engine.json").write_text('{"target": "tensorrt"}')
    with pytest.raises(BundleError, match="expected the facts of a TensorRT engine"):
        backend.load(tmp_path, LoadOptions())
    rig.content["target"] = "ort-cpu"
    with pytest.raises(BundleError, match="got 'ort-cpu'"):
        backend.load(rig.folder(tmp_path), LoadOptions())


@pytest.mark.parametrize(
    ("driver", "status", "message"),
    [
        (0, 35, r"no NVIDIA driver is installed.*cudaErrorInsufficientDriver \(35\).*driver 580"),
        (12040, 35, r"driver of this machine is too old \(CUDA 12\.4\)"),
        (13000, 100, r"cannot count the GPUs: cudaErrorNoDevice.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_machine_without_a_usable_gpu_is_named(
    rig: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: int,
    status: int,
    message: str,
) -> None:
    backend = install(rig, monkeypatch)
    rig.cuda.driver = driver
    failure = rig.fakes.Status(status)
    rig.cuda.fail("cudaGetDeviceCount", failure, failure)
    with pytest.raises(DeviceError, match=message):
        backend.load(rig.folder(tmp_path), LoadOptions())
    blocker = backend.run_blocker()
    assert blocker is not None
    assert failure.name in blocker


def test_no_visible_gpu_blocks_running_and_tensorrt_builds(
    rig: Any, graphs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = install(rig, monkeypatch)
    rig.cuda.devices = 0
    assert "no NVIDIA GPU is visible" in (backend.run_blocker() or "")
    blocker = backend.build_blocker()
    if backend.target == "tensorrt-rtx":
        assert blocker is None
    else:
        assert blocker is not None
        assert "compiles for the GPU of the machine it is built on" in blocker
        assert "tensorrt-rtx builds without a GPU" in blocker
        with pytest.raises(BuildError, match="compiles for the GPU of the machine"):
            backend.build(graphs.elementwise(), BuildConfig(profile=ShapeProfile({})), tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_missing_bindings_are_named(
    rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = install(rig, monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingPackageError, match="'cuda-bindings'"):
        backend.load(rig.folder(tmp_path), LoadOptions())
