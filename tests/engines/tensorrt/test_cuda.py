"""The CUDA facade against the real bindings, as far as a machine without a GPU allows."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from fuselage.engines.tensorrt.cuda import Cuda, PinnedMemory
from fuselage.errors import DeviceError

CALLS = {
    "require_device": (),
    "create_stream": (),
    "destroy_stream": (16,),
    "synchronize": (16,),
    "allocate": (100, 16),
    "free": (4096, 16),
    "allocate_pinned": (100,),
    "free_pinned": (PinnedMemory(4096, np.zeros(1, np.uint8)),),
    "copy_to_device": (4096, 8192, 100, 16),
    "copy_to_host": (4096, 8192, 100, 16),
    "copy_on_device": (4096, 8192, 100, 16),
    "create_event": (),
    "create_timed_event": (),
    "elapsed": (16, 32),
    "destroy_event": (16,),
    "record": (16, 32),
    "wait": (32, 16),
    "begin_capture": (16,),
    "is_capturing": (16,),
    "end_capture": (16,),
    "instantiate": (16,),
    "launch": (16, 32),
    "destroy_graph": (16,),
    "destroy_executable": (16,),
    "device": (),
    "use_device": (0,),
    "compute_capability": (0,),
    "gpu_name": (0,),
    "memory": (),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_real_bindings_take_our_arguments(name: str) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if Cuda.blocker() is None:
        pytest.skip("made-up addresses are for machines without a GPU")
    with pytest.raises(DeviceError, match=r"\(35\): CUDA driver version is insufficient"):
        getattr(Cuda.open(), name)(*CALLS[name])


def test_every_call_of_the_facade_is_tried() -> None:
    public = {name for name in vars(Cuda) if not name.startswith("_")}
    made_of_others, never_fail = {"open", "blocker", "on_device"}, {"forget_error", "driver"}
    assert public - made_of_others - never_fail == set(CALLS)


@pytest.mark.parametrize(
    ("call", "name", "what"),
    [
        ("cudaStreamCreateWithFlags", "create_stream", "create a stream"),
        ("cudaMallocAsync", "allocate", "allocate 100 bytes on the GPU"),
        ("cudaHostAlloc", "allocate_pinned", "allocate 100 bytes of page-locked host memory"),
    ],
)
def test_a_failing_call_says_what_failed(
    fakes: ModuleType, call: str, name: str, what: str
) -> None:
    fake = fakes.FakeCuda()
    cuda = Cuda(fake)
    stream = cuda.create_stream()
    fake.fail(call, fakes.Status.cudaErrorIllegalAddress)
    arguments = (100, stream) if name == "allocate" else CALLS[name]
    with pytest.raises(DeviceError, match=rf"cannot {what}: cudaErrorIllegalAddress \(700\): text"):
        getattr(cuda, name)(*arguments)


def test_pinned_memory_is_the_memory_at_its_address(fakes: ModuleType) -> None:
    fake = fakes.FakeCuda()
    cuda = Cuda(fake)
    memory = cuda.allocate_pinned(5)
    memory.bytes[:] = [1, 2, 3, 4, 5]
    assert bytes(fake.pinned[memory.address]) == b"\x01\x02\x03\x04\x05"
    cuda.free_pinned(memory)
    assert fake.leaks() == {}


def test_a_round_trip_needs_the_stream_to_be_synchronised(fakes: ModuleType) -> None:
    cuda = Cuda(fakes.FakeCuda())
    stream, memory = cuda.create_stream(), cuda.allocate_pinned(4)
    device = cuda.allocate(4, stream)
    memory.bytes[:] = 7
    cuda.copy_to_device(device, memory.address, 4, stream)
    cuda.synchronize(stream)
    memory.bytes[:] = 0
    cuda.copy_to_host(memory.address, device, 4, stream)
    assert memory.bytes.tolist() == [0] * 4
    cuda.synchronize(stream)
    assert memory.bytes.tolist() == [7] * 4


def test_the_compute_capability_is_spelled_like_a_target(fakes: ModuleType) -> None:
    assert Cuda(fakes.FakeCuda(capability=(12, 0))).compute_capability(0) == "SM120"


def test_the_driver_is_named_by_the_cuda_it_serves(fakes: ModuleType) -> None:
    fake = fakes.FakeCuda()
    fake.driver = 12040
    assert Cuda(fake).driver() == "12.4"
    assert Cuda(fake).gpu_name(0) == "NVIDIA L4"


def test_loading_needs_neither_onnx_nor_torch() -> None:
    code = (
        "import sys, fuselage.engines.tensorrt.backend; "
        "print(sorted({'onnx', 'onnx_ir', 'torch', 'transformers', 'tensorrt_rtx', 'cuda'} "
        "& set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stderr == ""
    assert answer.stdout.strip() == "[]"
