"""One execution context, fixed to one optimisation profile, told only what changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import DeviceError
from ..cuda import Cuda
from ..plan import OpenPlan

Shape = tuple[int, ...]


class BoundContext:
    """An ``IExecutionContext`` that remembers the shapes and addresses it was given.

    Not thread-safe. Its scratch memory is the caller's, so that the contexts of a lane, which
    never run at the same time, share one workspace.

    Args:
        plan: the open plan.
        outputs: names whose shapes are asked for.
        profile: index of the optimisation profile; never changed, because a change stalls.
    """

    def __init__(self, plan: OpenPlan, outputs: tuple[str, ...], profile: int) -> None:
        self._plan = plan
        self._outputs = outputs
        self._profile = profile
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._inferred: dict[str, Shape] | None = None
        self._context = plan.create_context()

    def prepare(self, cuda: Cuda, stream: int, workspace: tuple[int, int]) -> None:
        """Choose the profile and take the scratch memory, before the first run.

        Args:
            cuda: the CUDA facade.
            stream: where TensorRT queues what choosing a profile needs; waited for.
            workspace: address and bytes of memory that lives as long as the context.

        Raises:
            DeviceError: when TensorRT refuses, with its own messages.
        """
        if not self._context.set_optimization_profile_async(self._profile, stream):
            raise self.failure(f"choose the profile {self._profile}")
        cuda.synchronize(stream)
        self._context.set_device_memory(*workspace)

    def infer(self, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
        """Set the shape of every input; the shape of every output comes back.

        Raises:
            DeviceError: when TensorRT refuses a shape or cannot infer one.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._inferred = None
                self._shapes.pop(name, None)
                if not self._context.set_input_shape(name, shape):
                    raise self.failure(f"take the shape {list(shape)} for {name!r}")
                self._shapes[name] = shape
        if self._inferred is None:
            self._inferred = self._infer()
        return self._inferred

    def bind(self, name: str, address: int) -> None:
        """Let a tensor live at an address, until it is given another one.

        Raises:
            DeviceError: when TensorRT refuses the address.
        """
        if self._addresses.get(name) == address:
            return
        self._addresses.pop(name, None)
        if not self._context.set_tensor_address(name, address):
            raise self.failure(f"bind the tensor {name!r}")
        self._addresses[name] = address

    def enqueue(self, stream: int) -> None:
        """Queue one run with the shapes and addresses set.

        Raises:
            DeviceError: when TensorRT cannot, with its own messages.
        """
        if not self._context.execute_async_v3(stream):
            raise self.failure("run the plan")

    def capturable(self, stream: int) -> bool:
        """Whether a run may be recorded now; a flavour that compiles at run time may not be ready.

        Those that cannot be asked are tried.
        """
        context = self._context
        return not hasattr(context, "is_stream_capturable") or context.is_stream_capturable(stream)

    def failure(self, what: str) -> DeviceError:
        """The error that TensorRT put into its log instead of raising it."""
        return DeviceError(f"{self._plan.target} cannot {what}: {self._plan.lines.take_problems()}")

    def _infer(self) -> dict[str, Shape]:
        try:
            unknown = self._context.infer_shapes()
        except RuntimeError as error:
            raise self.failure(f"infer the output shapes ({error})") from error
        if unknown:
            raise self.failure(f"infer the shapes of {', '.join(unknown)}")
        return {name: self._output_shape(name) for name in self._outputs}

    def _output_shape(self, name: str) -> Shape:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise DeviceError(
                f"the shape of {name!r} depends on the values that are fed (TensorRT infers "
                f"{list(shape)}); rebuild from a graph whose sizes follow from those of its inputs"
            )
        return shape


def workspace_bytes(engine: Any) -> int:
    """Scratch memory that a run under any profile of an ``ICudaEngine`` fits into.

    The names without ``_v2`` leave out what weight streaming needs, and TensorRT 11 lacks them.
    """
    profiles = range(engine.num_optimization_profiles)
    return max(int(engine.get_device_memory_size_for_profile_v2(index)) for index in profiles)
