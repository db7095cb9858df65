"""A lane: one stream with a context for each profile, shared scratch memory and two buffer sets.

While one call of a lane computes, the copies of another go on, so two calls keep the GPU busy.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

import numpy as np

from ....errors import DeviceError
from ....graph.tensors import Array, Feeds
from ...base import ExecutorOptions
from ..cuda import Cuda
from ..facts import PlanFacts
from ..memory import most_bytes
from ..plan import OpenPlan
from .buffers import Buffer
from .context import BoundContext, workspace_bytes
from .device_run import DeviceRun
from .device_tensor import DeviceTensor
from .dlpack import DeviceView
from .graph_cache import GraphCache, Key
from .request import Request, Shape, actual
from .resources import give_back
from .slot import Slot
from .statistics import LaneStatistics

SLOTS = 2


class Lane:
    """Runs the calls that hold one of its slots, one at a time, in the order they come.

    Args:
        cuda: a facade whose current device is the plan's.
        plan: the open plan.
        facts: content of ``engine.json``.
        options: how many graphs to keep.
        report: told what the user should know, such as a graph that could not be recorded.

    Attributes:
        slots: hand one to `run`, to one call at a time.

    Raises:
        DeviceError: when the GPU has not enough memory; nothing is left behind.
    """

    def __init__(
        self,
        cuda: Cuda,
        plan: OpenPlan,
        facts: PlanFacts,
        options: ExecutorOptions,
        report: Callable[[str], None],
    ) -> None:
        self._open = False
        self._cuda = cuda
        self._device = cuda.device()
        self._process = os.getpid()
        self._facts = facts
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in facts.outputs}
        self._lock = threading.Lock()
        self._calls = 0
        self._launches = 0
        with ExitStack() as stack:
            self._stream = give_back(stack, cuda.destroy_stream, cuda.create_stream())
            self._workspace = self._allocate_workspace(stack, plan)
            self._contexts = self._create_contexts(plan)
            stack.callback(self._contexts.clear)
            self._graphs = GraphCache(
                cuda, limit=options.graphs, after=options.graph_after, report=report
            )
            stack.callback(self._graphs.close)
            most = {
                spec.name: most_bytes(spec, facts.profiles)
                for spec in (*facts.inputs, *facts.outputs)
            }
            self.slots = tuple(_open_slot(stack, cuda, index, most) for index in range(SLOTS))
            self._resources = stack.pop_all()
        self._open = True

    def __del__(self) -> None:
        # Of an engine that nobody closed. A forked process must leave its parent's alone.
        if self._open and self._process == os.getpid() and not sys.is_finalizing():
            with suppress(DeviceError), self._cuda.on_device(self._device):
                self.close()

    def run(self, slot: Slot, request: Request, feeds: Feeds) -> dict[str, Array]:
        """Run once; a new array for each output.

        Raises:
            DeviceError: when the GPU or TensorRT fails; no work of this call is queued any more.
        """
        try:
            staged = self._queue(slot, request, feeds)
            self._cuda.synchronize(slot.stream)
        except BaseException:  # Ctrl-C too: the next call has the slot to itself
            self._settle(slot)
            raise
        return {
            spec.name: actual(spec, staged[spec.name], request).copy()
            for spec in self._facts.outputs
        }

    def run_on_device(
        self, slot: Slot, request: Request, views: Mapping[str, DeviceView], stream: int | None
    ) -> dict[str, DeviceTensor]:
        """Run once on GPU memory of the caller; see `DeviceRun`.

        Raises:
            DeviceError: when the GPU or TensorRT fails; no work of this call is queued any more.
        """
        call = DeviceRun(self._cuda, self._facts, slot, request, lane_stream=self._stream)
        try:
            slot.begin()
            with self._lock:
                self._calls += 1
                call.queue(self._contexts[request.profile], views, stream)
            return call.outputs(stream)
        except BaseException:
            self._settle(slot)
            with self._lock:  # or it may end up in a graph that another call records
                call.abandon()
            raise

    def finish(self) -> None:
        """Wait for runs that were left to their caller's stream.

        Raises:
            DeviceError: when the GPU fails.
        """
        with self._lock:
            self._cuda.synchronize(self._stream)

    def forget_graphs(self) -> None:
        """Drop every recorded graph: what it was recorded with has changed."""
        with self._lock:
            self._graphs.close()

    def statistics(self) -> LaneStatistics:
        """Counters and memory of this lane."""
        with self._lock:
            return LaneStatistics(
                calls=self._calls,
                graph_launches=self._launches,
                captures=self._graphs.captures,
                capture_failures=self._graphs.refusals,
                evictions=self._graphs.evictions,
                graphs=len(self._graphs),
                buffer_bytes=sum(slot.buffers.bytes for slot in self.slots),
                workspace_bytes=self._workspace[1],
            )

    def close(self) -> None:
        """Free everything; no slot may be in use."""
        self._open = False
        for slot in self.slots:
            self._settle(slot)
        self._resources.close()

    def _queue(self, slot: Slot, request: Request, feeds: Feeds) -> dict[str, Array]:
        cuda = self._cuda
        slot.begin()
        for name, shape in request.shapes.items():
            slot.upload(name, feeds[name], shape)
        with self._lock:
            shapes = self._compute(slot, request)
        cuda.wait(slot.stream, slot.computed)
        return {
            name: slot.download(self._output_buffer(slot, name, shape), shape, self._dtypes[name])
            for name, shape in shapes.items()
        }

    def _compute(self, slot: Slot, request: Request) -> Mapping[str, Shape]:
        key = (request.profile, request.key, slot.index)
        self._forget_replaced(slot)
        self._calls += 1
        entry = self._graphs.find(key)
        if entry is not None and entry.executable is not None and entry.outputs is not None:
            self._follow(slot)
            self._cuda.launch(entry.executable, self._stream)
            self._cuda.record(slot.computed, self._stream)
            self._launches += 1
            return entry.outputs
        bound = self._contexts[request.profile]
        shapes = self._bind(bound, slot, request)
        self._follow(slot)
        bound.enqueue(self._stream)
        self._cuda.record(slot.computed, self._stream)
        if self._graphs.due(key):
            self._capture(key, bound, shapes)
        return shapes

    def _bind(self, bound: BoundContext, slot: Slot, request: Request) -> Mapping[str, Shape]:
        shapes = bound.infer(request.shapes)
        for spec in self._facts.inputs:
            bound.bind(spec.name, slot.buffers.reserve(spec.name, 0).device)
        for name, shape in shapes.items():
            bound.bind(name, self._output_buffer(slot, name, shape).device)
        self._forget_replaced(slot)
        return shapes

    def _follow(self, slot: Slot) -> None:
        """Let the run wait for the slot's copies, and for the allocation of its buffers."""
        self._cuda.record(slot.uploaded, slot.stream)
        self._cuda.wait(self._stream, slot.uploaded)

    def _capture(self, key: Key, bound: BoundContext, shapes: Mapping[str, Shape]) -> None:
        if not bound.capturable(self._stream):
            return
        # TensorRT leaves work that follows a change of shape to the first run, so a run whose end
        # was waited for comes before the one that is recorded.
        self._cuda.synchronize(self._stream)
        self._graphs.capture(key, self._stream, bound.enqueue, shapes)

    def _output_buffer(self, slot: Slot, name: str, shape: Shape) -> Buffer:
        # TensorRT updates a cache in place: input and output must have one address.
        place = self._facts.caches.get(name, name)
        return slot.buffers.reserve(place, math.prod(shape) * self._dtypes[name].itemsize)

    def _forget_replaced(self, slot: Slot) -> None:
        if slot.recorded != slot.buffers.generation:
            self._graphs.forget(slot.index)
            slot.recorded = slot.buffers.generation

    def _settle(self, slot: Slot) -> None:
        """Wait for whatever a call left queued, so that its memory may be used again."""
        with suppress(DeviceError), self._lock:
            self._cuda.synchronize(self._stream)
        with suppress(DeviceError):
            self._cuda.synchronize(slot.stream)

    def _allocate_workspace(self, stack: ExitStack, plan: OpenPlan) -> tuple[int, int]:
        size = max(workspace_bytes(plan.engine), 1)
        address = self._cuda.allocate(size, self._stream)
        give_back(stack, lambda held: self._cuda.free(held, self._stream), address)
        return address, size

    def _create_contexts(self, plan: OpenPlan) -> list[BoundContext]:
        outputs = tuple(spec.name for spec in self._facts.outputs)
        contexts = []
        for profile in range(len(self._facts.profiles)):
            bound = BoundContext(plan, outputs, profile)
            bound.prepare(self._cuda, self._stream, self._workspace)
            contexts.append(bound)
        return contexts


def _open_slot(stack: ExitStack, cuda: Cuda, index: int, most: Mapping[str, int]) -> Slot:
    slot = Slot(cuda, index, most)
    stack.callback(slot.close)
    return slot
