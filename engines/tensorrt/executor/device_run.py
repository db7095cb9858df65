"""One run on GPU memory of the caller: no staging, the caller's stream instead of the host."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ....errors import FeedError
from ..cuda import Cuda
from ..facts import PlanFacts
from .context import BoundContext
from .device_tensor import DeviceMemory, DeviceTensor
from .dlpack import CUDA, LEGACY_STREAM, DeviceView
from .request import Request, Shape
from .slot import Slot

ALIGNMENT = 256
"""TensorRT wants tensors to start at a multiple of this."""


class DeviceRun:
    """One call of `Lane.run_on_device`.

    Args:
        cuda: the CUDA facade.
        facts: outputs, and which of them are caches.
        slot: its events, and its buffers for tensors that cannot be bound where they are.
        request: profile and shapes.
        lane_stream: where the plan runs.
    """

    def __init__(
        self, cuda: Cuda, facts: PlanFacts, slot: Slot, request: Request, *, lane_stream: int
    ) -> None:
        self._cuda = cuda
        self._facts = facts
        self._slot = slot
        self._request = request
        self._lane_stream = lane_stream
        self._device = cuda.device()
        self._memory: list[DeviceMemory] = []
        self._results: dict[str, tuple[DeviceView, object]] = {}

    def queue(
        self, bound: BoundContext, views: Mapping[str, DeviceView], stream: int | None
    ) -> None:
        """Queue the run behind the caller's work; the lane's lock must be held.

        Args:
            bound: context of the request's profile.
            views: the inputs, checked.
            stream: the caller's; None waits for the default stream's work.

        Raises:
            FeedError: when the caller's stream records a CUDA graph.
        """
        cuda, slot = self._cuda, self._slot
        if stream and stream != LEGACY_STREAM and cuda.is_capturing(stream):
            # The lane's stream would join that graph, and with it the calls of others.
            raise FeedError(
                f"stream {stream} records a CUDA graph, and an engine's calls cannot be part of "
                "one; call the engine outside of it"
            )
        cuda.record(slot.uploaded, stream or LEGACY_STREAM)
        cuda.wait(self._lane_stream, slot.uploaded)
        shapes = bound.infer(self._request.shapes)
        addresses = self._input_addresses(views)
        for name, address in addresses.items():
            bound.bind(name, address)
        for name, shape in shapes.items():
            bound.bind(name, self._place(name, shape, views, addresses))
        bound.enqueue(self._lane_stream)
        for past in self._facts.caches.values():
            self._copy(views[past].address, addresses[past], views[past].nbytes)
        cuda.record(slot.computed, self._lane_stream)
        slot.leave()

    def outputs(self, stream: int | None) -> dict[str, DeviceTensor]:
        """The outputs, ready for what is queued on the caller's stream next, or for anybody.

        Args:
            stream: the caller's; None waits for the end of the run here.
        """
        cuda, slot = self._cuda, self._slot
        ready = stream or LEGACY_STREAM
        if stream is None:
            cuda.wait(slot.stream, slot.computed)
            cuda.synchronize(slot.stream)
        else:
            cuda.wait(ready, slot.computed)
        for memory in self._memory:
            memory.used_on(ready)
        return {
            name: DeviceTensor(cuda, view, owner, ready)
            for name, (view, owner) in self._results.items()
        }

    def abandon(self) -> None:
        """Free the outputs of a run that failed; nothing of it may be queued any more."""
        for memory in self._memory:
            memory.free()

    def _input_addresses(self, views: Mapping[str, DeviceView]) -> dict[str, int]:
        cuda, slot = self._cuda, self._slot
        addresses = {name: view.address for name, view in views.items()}
        crooked = [name for name, address in addresses.items() if address % ALIGNMENT]
        for name in crooked:
            addresses[name] = slot.buffers.reserve(name, views[name].nbytes).device
        if crooked:
            # The buffers are of the slot's stream; another may use them behind what it did last.
            cuda.record(slot.uploaded, slot.stream)
            cuda.wait(self._lane_stream, slot.uploaded)
        for name in crooked:
            self._copy(addresses[name], views[name].address, views[name].nbytes)
        return addresses

    def _copy(self, target: int, source: int, size: int) -> None:
        if target != source:
            self._cuda.copy_on_device(target, source, size, self._lane_stream)

    def _place(
        self,
        name: str,
        shape: Shape,
        views: Mapping[str, DeviceView],
        addresses: Mapping[str, int],
    ) -> int:
        dtype = np.dtype({spec.name: spec.dtype for spec in self._facts.outputs}[name])
        cache = self._facts.caches.get(name)
        if cache is not None:
            view = views[cache]
            self._results[name] = (view, view)
            return addresses[cache]
        size = max(math.prod(shape) * dtype.itemsize, 1)
        memory = DeviceMemory(self._cuda, self._device, size, self._lane_stream)
        self._memory.append(memory)
        view = DeviceView(memory.address, shape, dtype, (CUDA, self._device), contiguous=True)
        self._results[name] = (view, memory)
        return memory.address
