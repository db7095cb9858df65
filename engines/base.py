"""The interfaces every backend fills in: an open engine, what builds it, what a build leaves."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..errors import DeviceError, FeedError
from ..graph.tensors import Array, Feeds, ShapeProfile, TensorSpec

if TYPE_CHECKING:
    from ..graph.model import Graph
    from .choice import PassedOver
    from .mismatch import Mismatch

ENGINE_FACTS = "engine.json"
"""File in every target's folder: what the backend says about the engine it built."""


class DlpackTensor(Protocol):
    """A tensor that other libraries can take without a copy.

    Source: https://dmlc.github.io/dlpack/latest/python_spec.html
    """

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        """A capsule, ready for work on the stream."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Device type and index: (1, 0) for the CPU, (2, i) for a CUDA device."""


class Engine(abc.ABC):
    """One open engine. A context manager; `close` is idempotent; `run` may be called by threads.

    Attributes:
        target: for example ``ort-cpu``.
        inputs: only what the model needs, in graph order.
        outputs: in graph order.
        notes: what the user should know, such as a fallback that was taken; empty when nothing.
        profiles: the ranges of sizes it takes, each as a whole; empty when it takes any.
        buckets: lengths that texts are best padded to, ascending; empty when it does not matter.
        name: in the bundle it came from: the target, or ``tensorrt@SM90`` where the bundle has
            several engines of the target; empty outside a bundle.
        passed_over: engines of the bundle that were tried before this one, and why they do not run.
    """

    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    buckets: tuple[int, ...] = ()
    name: str = ""
    passed_over: tuple[PassedOver, ...] = ()

    @abc.abstractmethod
    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: one C-contiguous array an input, exactly the dtype of its TensorSpec.

        Returns:
            A new array for each output, by name.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes.
            DeviceError: when the device fails.
        """

    async def run_async(self, feeds: Feeds) -> dict[str, Array]:
        """Run once without blocking the event loop; see `run`.

        The arrays must stay as they are until it returns. Cancelling stops the waiting, not the
        call.
        """
        return await asyncio.to_thread(self.run, feeds)

    def run_dlpack(
        self, feeds: Mapping[str, DlpackTensor], *, stream: int | None = None
    ) -> dict[str, DlpackTensor]:
        """Run once on tensors of any library, without a copy to the host and back.

        Args:
            feeds: one C-contiguous tensor an input, on the engine's device.
            stream: handle of the caller's CUDA stream: inputs are read behind what is queued on it
                now, outputs are ready for what is queued on it next, and nothing waits on the
                host. It must live as long as the outputs. None: inputs are ready as their library
                says, outputs when it returns.

        Returns:
            A new tensor for each output, by name, on the engine's device.

        Raises:
            FeedError: on wrong names, dtypes, ranks or sizes, tensors of another device, or a
                stream given to an engine on the CPU.
            DeviceError: when the device fails.
        """
        del stream
        raise FeedError(
            f"{self.target} takes no DLPack tensors, got {', '.join(feeds)}; feed numpy arrays "
            "to run()"
        )

    @abc.abstractmethod
    def close(self) -> None:
        """Release memory and device resources, once the calls under way have ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TimingStore(Protocol):
    """Measurements of kernels on the GPU of this machine, kept from build to build."""

    def read(self) -> bytes | None:
        """What is kept; None when nothing is."""

    def update(self, merge: Callable[[bytes | None], bytes]) -> None:
        """Keep what ``merge`` makes of what is there by then; one build at a time."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build; never what to compute: precision is in the graph (casts, Q/DQ).

    Attributes:
        profile: sizes of the dynamic axes the engine must accept, from least to most.
        profiles: optimisation profiles that share this range among them, for backends that have
            such; empty for `profile` alone.
        buckets: lengths that the runtime pads texts to, ascending; recorded with the engine.
        compute_capabilities: for ahead-of-time targets, for example ``("SM80", "SM89")``; empty
            means the backend's default.
        workspace_bytes: upper bound of a TensorRT engine's scratch memory.
        gpu_memory: bytes of the smallest GPU that a TensorRT engine must fit; None for those of the
            GPU it is built on, and for no bound where it is compiled ahead of time.
        threads: CPU threads the engine is tuned for; 0 means all physical cores allowed to us.
        refittable: whether a TensorRT plan takes other weights later.
        stripped: whether a TensorRT plan is written without weights, which are then those of
            `source` when it is opened.
        weight_streaming: whether a part of a TensorRT plan's weights may stay in host memory.
        source: the bundle's graph as read from its files, for `stripped`.
        timings: where TensorRT's measurements of kernels are kept; None to measure anew.
    """

    profile: ShapeProfile
    profiles: tuple[ShapeProfile, ...] = ()
    buckets: tuple[int, ...] = ()
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int = 4 << 30
    gpu_memory: int | None = None
    threads: int = 0
    refittable: bool = False
    stripped: bool = False
    weight_streaming: bool = False
    source: Graph | None = field(default=None, repr=False, compare=False)
    timings: TimingStore | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class EngineArtifact:
    """What a build left in its folder.

    Attributes:
        target: for example ``tensorrt-rtx``.
        files: names inside the folder, ``engine.json`` included.
        facts: the content of ``engine.json``: version, bytes, kernels or nodes, build seconds.
    """

    target: str
    files: tuple[str, ...]
    facts: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """How an engine on a GPU overlaps calls; engines on a CPU have no use for it.

    Attributes:
        lanes: calls that compute at the same time, each with its own stream and scratch memory;
            two more calls a lane may copy meanwhile.
        graphs: CUDA graphs a lane keeps, 0 for none.
        graph_after: calls of one shape before its graph is recorded.
        buckets: dynamic axis -> sizes that calls are padded up to with zeros, so that fewer
            graphs serve more shapes. Give it only where a zero means padding to the model: rows of
            a batch, or tokens whose attention mask is an input. Answers come without the padding.
        weight_streaming_budget: bytes of GPU memory for weights that can be streamed, of an
            engine that was built with weight streaming; None for what TensorRT thinks best.
    """

    lanes: int = 2
    graphs: int = 64
    graph_after: int = 3
    buckets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weight_streaming_budget: int | None = None

    def __post_init__(self) -> None:
        if self.weight_streaming_budget is not None and self.weight_streaming_budget < 0:
            raise DeviceError(
                f"executor: weight_streaming_budget={self.weight_streaming_budget}: expected bytes "
                "of GPU memory, 0 or more, or None"
            )
        if self.lanes < 1 or self.graphs < 0 or self.graph_after < 1:
            raise DeviceError(
                "executor: expected at least 1 lane, 0 graphs and 1 call before a graph, got "
                f"lanes={self.lanes}, graphs={self.graphs}, graph_after={self.graph_after}"
            )


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How to open an engine.

    Attributes:
        threads: CPU threads; 0 means all physical cores allowed to this process.
        executor: lanes, graphs and buckets of an engine on a GPU.
        source: the bundle's canonical ONNX graph, used when the engine does not fit this machine
            and the backend can run ONNX itself; None forbids the fallback.
    """

    threads: int = 0
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    source: Path | None = None


class EngineBackend(Protocol):
    """Builds and loads the engines of one target."""

    @property
    def target(self) -> str:
        """For example ``ort-cpu``."""

    def build_blocker(self) -> str | None:
        """None when this machine can build the target, else what is missing and what to do."""

    def run_blocker(self) -> str | None:
        """None when this machine can run the target, else what is missing and what to do."""

    def mismatches(self, folder: Path) -> tuple[Mismatch, ...]:
        """In what this machine differs from the one an engine was built for; opens no engine.

        Raises:
            BundleError: when the files are not what `build` writes.
        """

    def build(self, graph: Graph, config: BuildConfig, folder: Path) -> EngineArtifact:
        """Build into an existing, empty folder and write ``engine.json`` there.

        Raises:
            BuildError: with the backend's own messages; the folder's content is then undefined.
        """

    def load(self, folder: Path, options: LoadOptions) -> Engine:
        """Open what `build` wrote.

        Raises:
            DeviceError: when this machine cannot run it: which driver, GPU or version is missing.
            BundleError: when the files are not what `build` writes.
        """
