"""TensorRtEngine: run a plan on a GPU, from as many threads as there are."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from ...errors import DeviceError
from ...graph.tensors import Array, Feeds
from ..base import DlpackTensor, Engine, ExecutorOptions
from .cuda import Cuda, DeviceLostError
from .executor.context import workspace_bytes
from .executor.dlpack import taken
from .executor.lane import Lane
from .executor.refit import HalfRefittedError, refit
from .executor.request import RequestReader
from .executor.slot_pool import SlotPool
from .executor.statistics import LaneStatistics
from .facts import PlanFacts
from .memory import check_lanes, check_weights
from .plan import OpenPlan, open_plan
from .weights.refill import refill
from .weights.streaming import set_budget
from .weights.table import PlanWeights

_MOST_NOTES = 16
"""Reasons may name shapes, so there could be any number of them."""


class TensorRtEngine(Engine):
    """One plan and the lanes that run it; calls beyond their slots wait for one.

    `run` stages inputs in page-locked memory, so the caller's arrays are free once it returns, and
    outputs are new arrays that the engine never touches again. The caches of a decoder are no
    exception: each call brings them along and takes them back. `run_dlpack` reads and writes the
    caller's GPU memory; there a cache is updated in place, and its output is the tensor fed.
    """

    def __init__(
        self, cuda: Cuda, plan: OpenPlan, facts: PlanFacts, options: ExecutorOptions
    ) -> None:
        self.target = facts.target
        self.inputs = facts.inputs
        self.outputs = facts.outputs
        self.notes = plan.notes
        self.profiles = facts.profiles
        self.buckets = facts.buckets
        self._plan = plan
        self._mode = facts.mode
        self._cuda = cuda
        self._device = cuda.device()
        self._requests = RequestReader(facts, options.buckets)
        self._closing = threading.Lock()
        self._closed = False
        self._noting = threading.Lock()
        check_lanes(cuda, workspace_bytes(plan.engine), options.lanes)
        with ExitStack() as stack:
            self._lanes = tuple(
                _open_lane(stack, Lane(cuda, plan, facts, options, self._note))
                for _ in range(options.lanes)
            )
            self._pool = SlotPool(self._lanes, self.target)
            self._resources = stack.pop_all()

    @classmethod
    def open(
        cls,
        trt: Any,
        cuda: Cuda,
        plan: bytes,
        facts: PlanFacts,
        options: ExecutorOptions | None = None,
        weights: PlanWeights | None = None,
    ) -> TensorRtEngine:
        """Open a plan on the calling thread's GPU.

        Args:
            trt: the flavour's module.
            cuda: a facade whose `require_device` passed.
            plan: content of ``engine.plan``; not needed afterwards.
            facts: content of ``engine.json``.
            options: lanes, graphs, buckets and budget; None for the defaults.
            weights: of a plan that was written without them.

        Raises:
            DeviceError: when this machine cannot run the plan, or its GPU has not enough free
                memory for the weights or the lanes.
            FeedError: when the buckets do not fit the plan.
            BundleError: when plan and facts are damaged or do not belong together.
        """
        options = options or ExecutorOptions()
        total = facts.weight_bytes or 0
        if not facts.mode.streamed:
            check_weights(cuda, total)
        opened = open_plan(trt, cuda, plan, facts)
        if weights is not None:
            refill(opened, weights)
        note = set_budget(
            opened,
            cuda,
            options.weight_streaming_budget,
            streamed=facts.mode.streamed,
            total=total,
        )
        if note is not None:
            opened = replace(opened, notes=(*opened.notes, note))
            options = replace(options, graphs=0)  # weights that stream are allocated in a run
        return cls(cuda, opened, facts, options)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; see `Engine.run`.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes, or sizes outside the profile.
            DeviceError: when the GPU fails, with TensorRT's own messages, or after `close`.
        """
        request = self._requests.read(feeds)
        lane, slot = self._pool.acquire()
        try:
            with self._cuda.on_device(self._device):
                return lane.run(slot, request, feeds)
        except DeviceLostError as error:
            self._pool.condemn(_lost(error))
            raise
        finally:
            self._pool.release(lane, slot)

    def run_dlpack(
        self, feeds: Mapping[str, DlpackTensor], *, stream: int | None = None
    ) -> dict[str, DlpackTensor]:
        """Run once on GPU memory of the caller; see `Engine.run_dlpack`.

        Calls run without padding and without CUDA graphs, whose addresses are fixed. A tensor
        that does not start at a multiple of 256 bytes is copied within the GPU first.
        """
        views = {name: taken(name, tensor, stream) for name, tensor in feeds.items()}
        request = self._requests.exact(
            {name: view.checked(name, self._device) for name, view in views.items()}
        )
        lane, slot = self._pool.acquire()
        try:
            with self._cuda.on_device(self._device):
                return dict(lane.run_on_device(slot, request, views, stream))
        except DeviceLostError as error:
            self._pool.condemn(_lost(error))
            raise
        finally:
            self._pool.release(lane, slot)

    def refit(self, weights: Mapping[str, Array]) -> None:
        """Replace weights between calls; those under way end first, others wait.

        Args:
            weights: name in the plan -> values of the dtype and size it was built with.

        Raises:
            FeedError: on weights the plan cannot take; it goes on with the old ones.
            DeviceError: when the plan was built with its weights fixed, the engine is closed, or
                TensorRT fails midway, after which the engine refuses every call.
        """
        if self._mode.refit == "identical":
            raise DeviceError(
                f"this {self.target} plan was built for the weights of its bundle alone "
                "(--strip-plan); build it with --refittable to give it others"
            )
        with self._pool.alone(), self._cuda.on_device(self._device):
            for lane in self._lanes:
                lane.finish()
                lane.forget_graphs()
            try:
                refit(self._plan, weights)
            except (HalfRefittedError, KeyboardInterrupt) as error:
                why = str(error) or "interrupted"
                self._pool.condemn(f"was left half refitted ({why}); load it again")
                raise

    def statistics(self) -> LaneStatistics:
        """What the lanes did and hold, summed up."""
        return LaneStatistics.total(lane.statistics() for lane in self._lanes)

    def close(self) -> None:
        """Wait for the calls under way, then release everything; further calls do nothing."""
        if self._pool.is_foreign:
            return  # forked off: all of it is the parent's
        self._pool.close()
        with self._closing:
            if self._closed:
                return
            self._closed = True
            if self._plan.compiled is not None:
                self._plan.compiled.keep()
            with suppress(DeviceError), self._cuda.on_device(self._device):
                self._resources.close()
            self._resources.close()  # a lost GPU cannot even be selected
            del self._plan  # and with it the weights

    def _note(self, note: str) -> None:
        with self._noting:
            if note not in self.notes and len(self.notes) < _MOST_NOTES:
                self.notes = (*self.notes, note)


def _lost(error: DeviceLostError) -> str:
    return f"lost its GPU ({error}); load it again in a new process"


def _open_lane(stack: ExitStack, lane: Lane) -> Lane:
    stack.callback(lane.close)
    return lane
