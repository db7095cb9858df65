"""TensorRtEngine: run a plan through the name-based API on a stream of its own."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from ...errors import DeviceError
from ...graph.tensors import Array, Feeds, TensorSpec, check_feeds
from ..base import Engine
from .buffers import Buffer, IoBuffers
from .cuda import Cuda
from .facts import PlanFacts
from .plan import OpenPlan, open_plan


class TensorRtEngine(Engine):
    """One plan, one execution context, one stream; calls from several threads take turns.

    Inputs are staged in page-locked memory, so the caller's arrays are free once `run` returns,
    and outputs are new arrays that the engine never touches again. The caches of a decoder are
    no exception: each call brings them along and takes them back.
    """

    def __init__(
        self, cuda: Cuda, plan: OpenPlan, facts: PlanFacts, *, stream: int, resources: ExitStack
    ) -> None:
        self.target = facts.target
        self.inputs = facts.inputs
        self.outputs = facts.outputs
        self.notes = plan.notes
        self._profile = facts.profile
        self._caches = facts.caches
        self._cuda = cuda
        self._device = cuda.device()
        self._stream = stream
        self._plan: OpenPlan | None = plan
        self._buffers = IoBuffers(cuda, stream)
        self._resources = resources
        self._resources.callback(self._buffers.close)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, trt: Any, cuda: Cuda, plan: bytes, facts: PlanFacts) -> TensorRtEngine:
        """Open a plan on the calling thread's GPU.

        Args:
            trt: the flavour's module.
            cuda: a facade whose `require_device` passed.
            plan: content of ``engine.plan``; not needed afterwards.
            facts: content of ``engine.json``.

        Raises:
            DeviceError: when this machine cannot run the plan.
            BundleError: when plan and facts are damaged or do not belong together.
        """
        with ExitStack() as stack:
            stream = cuda.create_stream()
            stack.callback(_destroy_stream, cuda, stream)
            opened = open_plan(trt, cuda, plan, facts)
            return cls(cuda, opened, facts, stream=stream, resources=stack.pop_all())

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see `Engine.run`.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes, or sizes outside the profile.
            DeviceError: when the GPU fails, with TensorRT's own messages, or after `close`.
        """
        self._profile.check(check_feeds(self.inputs, feeds))
        with self._lock:
            if self._plan is None:
                raise DeviceError(f"this {self.target} engine is closed; load it again")
            self._cuda.use_device(self._device)
            try:
                return self._run(self._plan, feeds)
            except DeviceError:
                # The pinned buffers may be reused only when no copy is under way.
                with suppress(DeviceError):
                    self._cuda.synchronize(self._stream)
                raise

    def close(self) -> None:
        """Release the context, the plan and all memory; further calls do nothing."""
        with self._lock:
            if self._plan is None:
                return
            with suppress(DeviceError):
                self._cuda.use_device(self._device)
                self._cuda.synchronize(self._stream)
            self._plan = None
            self._resources.close()

    def _run(self, plan: OpenPlan, feeds: Feeds) -> dict[str, Array]:
        context = plan.context
        for spec in self.inputs:
            self._feed(plan, spec.name, feeds[spec.name])
        results = self._bind_outputs(plan)
        if not context.execute_async_v3(self._stream):
            raise self._failure(plan, "run the plan")
        for buffer, view in results.values():
            self._cuda.copy_to_host(buffer.host.address, buffer.device, view.nbytes, self._stream)
        self._cuda.synchronize(self._stream)
        return {name: view.copy() for name, (_, view) in results.items()}

    def _feed(self, plan: OpenPlan, name: str, array: Array) -> None:
        buffer = self._buffers.reserve(name, array.nbytes)
        np.copyto(_view(buffer, array.shape, array.dtype), array)
        self._cuda.copy_to_device(buffer.device, buffer.host.address, array.nbytes, self._stream)
        context = plan.context
        if not context.set_input_shape(name, array.shape):
            raise self._failure(plan, f"take the shape {list(array.shape)} for {name!r}")
        self._bind(plan, name, buffer)

    def _bind_outputs(self, plan: OpenPlan) -> dict[str, tuple[Buffer, Array]]:
        context = plan.context
        try:
            unknown = context.infer_shapes()
        except RuntimeError as error:
            raise self._failure(plan, f"infer the output shapes ({error})") from error
        if unknown:
            raise self._failure(plan, f"infer the shapes of {', '.join(unknown)}")
        results = {}
        for spec in self.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            if any(size < 0 for size in shape):
                raise self._failure(plan, f"infer the shape of {spec.name!r} (got {list(shape)})")
            results[spec.name] = self._reserve_output(plan, spec, shape)
        return results

    def _reserve_output(
        self, plan: OpenPlan, spec: TensorSpec, shape: tuple[int, ...]
    ) -> tuple[Buffer, Array]:
        dtype = np.dtype(spec.dtype)
        # TensorRT updates a cache in place: input and output must have one address.
        place = self._caches.get(spec.name, spec.name)
        buffer = self._buffers.reserve(place, math.prod(shape) * dtype.itemsize)
        self._bind(plan, spec.name, buffer)
        return buffer, _view(buffer, shape, dtype)

    def _bind(self, plan: OpenPlan, name: str, buffer: Buffer) -> None:
        context = plan.context
        if not context.set_tensor_address(name, buffer.device):
            raise self._failure(plan, f"bind the tensor {name!r}")

    def _failure(self, plan: OpenPlan, what: str) -> DeviceError:
        return DeviceError(f"{self.target} cannot {what}: {plan.lines.take_problems()}")


def _view(buffer: Buffer, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    return buffer.host.bytes[:size].view(dtype).reshape(shape)


def _destroy_stream(cuda: Cuda, stream: int) -> None:
    # After a fatal CUDA error the stream is gone already, and that error was raised.
    with suppress(DeviceError):
        cuda.destroy_stream(stream)
