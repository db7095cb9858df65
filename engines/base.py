"""The interfaces every backend fills in: an open engine, what builds it, what a build leaves."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..graph.tensors import Array, Feeds, ShapeProfile, TensorSpec

if TYPE_CHECKING:
    from ..graph.model import Graph

ENGINE_FACTS = "engine.json"
"""File in every target's folder: what the backend says about the engine it built."""


class Engine(abc.ABC):
    """One open engine. A context manager; `close` is idempotent; `run` may be called by threads.

    Attributes:
        target: for example ``ort-cpu``.
        inputs: only what the model needs, in graph order.
        outputs: in graph order.
        notes: what the user should know, such as a fallback that was taken; empty when nothing.
    """

    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()

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

    @abc.abstractmethod
    def close(self) -> None:
        """Release memory and device resources."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build; never what to compute: precision is in the graph (casts, Q/DQ).

    Attributes:
        profile: sizes of the dynamic axes the engine must accept.
        compute_capabilities: for ahead-of-time targets, for example ``("SM80", "SM89")``; empty
            means the backend's default.
        workspace_bytes: upper bound of a TensorRT engine's scratch memory.
        threads: CPU threads the engine is tuned for; 0 means all physical cores allowed to us.
    """

    profile: ShapeProfile
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int = 4 << 30
    threads: int = 0


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
class LoadOptions:
    """How to open an engine.

    Attributes:
        threads: CPU threads; 0 means all physical cores allowed to this process.
        source: the bundle's canonical ONNX graph, used when the engine does not fit this machine
            and the backend can run ONNX itself; None forbids the fallback.
    """

    threads: int = 0
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
