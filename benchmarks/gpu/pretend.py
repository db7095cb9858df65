"""A TensorRT whose plans launch our own kernels: all but TensorRT is real on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from fuselage.engines.base import ExecutorOptions
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.engine import TensorRtEngine
from fuselage.engines.tensorrt.facts import PlanFacts

WIDTH = 256
DIMS = ("batch", "sequence", WIDTH)
STEPS = 8
WORKSPACE = 2 * 128 * 256 * WIDTH * 4


@dataclass(frozen=True)
class Call:
    """One run that is to be queued.

    Attributes:
        stream: handle.
        x: address of the input, float32 [rows, WIDTH].
        y: address of the output, of the same form.
        workspace: address of scratch memory.
        rows: batch times sequence.
    """

    stream: int
    x: int
    y: int
    workspace: int
    rows: int

    @property
    def size(self) -> int:
        """Bytes of the input."""
        return self.rows * WIDTH * 4


@dataclass(frozen=True)
class Kernels:
    """What a plan launches.

    Attributes:
        name: for the table.
        launch: queues the work of a call.
        answer: what the work computes.
    """

    name: str
    launch: Callable[[Call], None]
    answer: Callable[[Any], Any]


class _Context:
    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._workspace = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        return profile_index == 0 and stream_handle > 2

    def set_device_memory(self, memory: int, size: int) -> None:
        self._workspace = memory
        assert size >= WORKSPACE

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return name == "x"

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        del name
        return self._shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        rows = math.prod(self._shape[:-1])
        x, y = self._addresses["x"], self._addresses["y"]
        self._kernels.launch(Call(stream_handle, x, y, self._workspace, rows))
        return True


def open_pretended(cuda: Cuda, fakes: Any, kernels: Kernels, **options: Any) -> TensorRtEngine:
    """An engine of the product whose one plan launches the kernels."""
    trt = fakes.FakeTensorRt("tensorrt", fakes.FakeCuda())
    modes = trt.TensorIOMode
    engine = SimpleNamespace(
        num_io_tensors=2,
        num_optimization_profiles=1,
        get_tensor_name=["x", "y"].__getitem__,
        get_tensor_mode=lambda name: modes.INPUT if name == "x" else modes.OUTPUT,
        get_tensor_dtype=lambda _: trt.DataType.FLOAT,
        get_tensor_location=lambda _: trt.TensorLocation.DEVICE,
        get_device_memory_size_for_profile_v2=lambda _: WORKSPACE,
        create_execution_context=lambda *_: _Context(kernels),
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _: engine)
    trt.Runtime = lambda _: runtime
    tensor = {"dtype": "float32", "dims": DIMS}
    facts = {
        "target": "tensorrt",
        "package_version": trt.__version__,
        "compute_capabilities": [],
        "bytes": 4,
        "profile": {"batch": [1, 8, 128], "sequence": [1, 128, 256]},
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
    }
    return TensorRtEngine.open(
        trt, cuda, b"plan", PlanFacts.parse(facts), ExecutorOptions(**options)
    )


def copies(api: Any) -> Kernels:
    """Copies within the GPU, by way of the workspace: the answer is the input."""
    kind = api.cudaMemcpyKind.cudaMemcpyDeviceToDevice

    def launch(call: Call) -> None:
        for to, origin in ((call.workspace, call.x), (call.y, call.workspace)) * (STEPS // 2):
            (status,) = api.cudaMemcpyAsync(to, origin, call.size, kind, call.stream)
            assert status.name == "cudaSuccess", status

    return Kernels("copies within the GPU", launch, lambda x: x)


def faked(api: Any) -> Kernels:
    """Numpy on the memory of the fake GPU, when the stream gets there."""
    order = _order()

    def launch(call: Call) -> None:
        def compute() -> None:
            source = np.frombuffer(bytes(api.span(call.x, call.size)), np.float32)
            answer = source.reshape(call.rows, WIDTH)[:, order] + np.float32(STEPS)
            api.span(call.y, call.size)[:] = np.ascontiguousarray(answer).tobytes()

        api.stream(call.stream).push(compute)

    return Kernels("numpy on the fake GPU", launch, _permuted)


def torch_kernels(torch: Any) -> Kernels:
    """A product with a permutation and eight additions by PyTorch, in place: exact in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    permutation = torch.eye(WIDTH, device="cuda")[:, torch.as_tensor(_order(), device="cuda")]
    permutation = permutation.contiguous()
    torch.cuda.synchronize()

    def view(address: int, rows: int) -> Any:
        interface = {
            "shape": (rows, WIDTH),
            "typestr": "<f4",
            "data": (address, False),
            "version": 3,
            "strides": None,
        }
        return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")

    def launch(call: Call) -> None:
        with torch.cuda.stream(torch.cuda.ExternalStream(call.stream)):
            middle, y = view(call.workspace, call.rows), view(call.y, call.rows)
            torch.mm(view(call.x, call.rows), permutation, out=middle)
            for _ in range(STEPS):
                middle.add_(1.0)
            y.copy_(middle)

    return Kernels("kernels of PyTorch", launch, _permuted)


def _order() -> Any:
    return np.random.default_rng(3).permutation(WIDTH)


def _permuted(x: Any) -> Any:
    return x[..., _order()] + np.float32(STEPS)
