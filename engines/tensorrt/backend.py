"""TensorRtBackend: an ONNX graph in, a plan and its facts out; and back in again to run."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BuildError, DeviceError
from ..base import ENGINE_FACTS, BuildConfig, Engine, EngineArtifact, LoadOptions
from ..mismatch import Mismatch
from .attention import Decomposed, caches_of, lost_attention
from .cuda import Cuda
from .engine import TensorRtEngine
from .facts import PlanFacts
from .fit import differences, this_machine
from .flavour import FLAVOURS, Flavour, choose_compute_capabilities
from .kernels import EngineListing, read_listing
from .log import LogLines, make_logger
from .memory import memory_need
from .native_output import native_output
from .network import ParsedNetwork, parse_network
from .profiles import add_profile, engine_profiles

if TYPE_CHECKING:
    from ...graph.model import Graph
    from ...graph.tensors import ShapeProfile

PLAN = "engine.plan"
"""File name of the serialised engine in a target's folder."""


@dataclass(frozen=True)
class TensorRtBackend:
    """Builds and loads the engines of one flavour.

    Attributes:
        flavour: the package to use.
    """

    flavour: Flavour

    @classmethod
    def of(cls, target: str) -> TensorRtBackend:
        """The backend of ``tensorrt`` or ``tensorrt-rtx``."""
        return cls(FLAVOURS[target])

    @property
    def target(self) -> str:
        """The target whose engines this backend builds."""
        return self.flavour.target

    def build_blocker(self) -> str | None:
        """None when this machine can build the target, else what is missing and what to do."""
        if blocker := self.flavour.blocker():
            return blocker
        if self.flavour.builds_without_gpu:
            return None
        if (blocker := Cuda.blocker()) is None:
            return None
        return (
            f"the target {self.target} compiles for the GPU of the machine it is built on: "
            f"{blocker}; the target tensorrt-rtx builds without a GPU"
        )

    def run_blocker(self) -> str | None:
        """None when this machine can run the target, else what is missing and what to do."""
        return self.flavour.blocker() or Cuda.blocker()

    def build(self, graph: Graph, config: BuildConfig, folder: Path) -> EngineArtifact:
        """Build ``engine.plan`` and ``engine.json`` into an existing, empty folder.

        The plan's bytes depend on the graph, the configuration and the version of the package
        alone. ``engine.json`` differs between two such builds in ``build_seconds`` alone.

        Raises:
            MissingPackageError: when the package is not installed.
            BuildError: with TensorRT's messages: a node it does not import, an input nothing
                reads, a profile or compute capability it refuses, a data type the GPU lacks, more
                memory than the GPU has, and any error in the log even when a plan came back.
        """
        try:
            trt = self.flavour.module()
        except DeviceError as error:
            raise BuildError(str(error)) from error
        if blocker := self.build_blocker():
            raise BuildError(blocker)
        targets = choose_compute_capabilities(self.flavour, trt, config.compute_capabilities)
        started = time.perf_counter()
        lines = LogLines()
        plan, parsed = _compile(trt, graph, config, targets, lines)
        seconds = time.perf_counter() - started
        facts = self._facts(graph, config, plan, lines, parsed.decomposed) | {
            "compute_capabilities": list(targets),
            "package_version": str(trt.__version__),
            "build_seconds": round(seconds, 3),
            "built_on": self._built_on(),
        }
        _write(folder / PLAN, plan)
        text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
        _write(folder / ENGINE_FACTS, text.encode())
        return EngineArtifact(target=self.target, files=(PLAN, ENGINE_FACTS), facts=facts)

    def load(self, folder: Path, options: LoadOptions) -> Engine:
        """Open a plan on the current GPU.

        Args:
            folder: what `build` wrote.
            options: threads and source have no meaning here; a plan runs on the GPU or not at all.

        Raises:
            MissingPackageError: when the flavour's package or cuda-bindings is not installed.
            DeviceError: when the driver, the GPU or the package's version cannot run the plan.
            BundleError: when the files are not what `build` writes.
        """
        facts = PlanFacts.read(folder / ENGINE_FACTS, self.target)
        plan = facts.read_plan(folder / PLAN)
        trt = self.flavour.module()
        cuda = Cuda.open()
        cuda.require_device()
        return TensorRtEngine.open(trt, cuda, plan, facts, options.executor)

    def mismatches(self, folder: Path) -> tuple[Mismatch, ...]:
        """In what this machine differs from the one the plan was built for; loads no plan.

        Raises:
            BundleError: when ``engine.json`` is not what `build` writes.
        """
        facts = PlanFacts.read(folder / ENGINE_FACTS, self.target)
        here = None if Cuda.blocker() else this_machine(Cuda.open())
        return differences(facts, self.flavour.installed(), here)

    def _built_on(self) -> dict[str, str] | None:
        # What is compiled ahead of time is tuned for no GPU in particular.
        return None if self.flavour.builds_without_gpu else asdict(this_machine(Cuda.open()))

    def _gpu_memory(self, config: BuildConfig) -> int | None:
        """Bytes that the engine must fit; None where nothing is known of the GPU it is for."""
        if config.gpu_memory is not None or self.flavour.builds_without_gpu:
            return config.gpu_memory
        return Cuda.open().memory()[1]

    def _facts(
        self,
        graph: Graph,
        config: BuildConfig,
        plan: memoryview,
        lines: LogLines,
        decomposed: tuple[Decomposed, ...],
    ) -> dict[str, Any]:
        listing = read_listing(lines.texts())
        profiles = _profiles(graph, config)
        silent = "the log of this TensorRT lists no kernels; fusion and precision are not counted"
        caches = caches_of(graph)
        need = memory_need(
            (*graph.inputs, *(spec for spec in graph.outputs if spec.name not in caches)),
            profiles,
            weights=listing.weight_bytes,
            workspace=listing.activation_bytes,
        )
        limit = self._gpu_memory(config)
        tight = () if need is None or limit is None else need.check(limit)
        return {
            "target": self.target,
            "package": self.flavour.distribution,
            "bytes": plan.nbytes,
            "sha256": hashlib.sha256(plan).hexdigest(),
            "profile": _sizes(config.profile),
            "profiles": [_sizes(profile) for profile in profiles],
            "buckets": list(config.buckets),
            "inputs": PlanFacts.tensors(graph.inputs),
            "outputs": PlanFacts.tensors(graph.outputs),
            "caches": caches,
            "decomposed_attention": [
                {"node": found.node, "reason": found.reason}
                for found in lost_attention(graph, listing, len(profiles), decomposed)
            ],
            "kernels": listing.of_profile(0).summary() if listing.kernels else None,
            "decode_kernels": _decode_kernels(listing, config, profiles),
            "profile_kernels": _kernels(listing, len(profiles)),
            "kernel_list": [kernel.facts() for kernel in listing.kernels],
            "activation_bytes": listing.activation_bytes,
            "weight_bytes": listing.weight_bytes,
            "gpu_memory": None if need is None else need.facts(),
            "warnings": [*lines.warnings, *(() if listing.kernels else (silent,)), *tight],
        }


def _compile(
    trt: Any, graph: Graph, config: BuildConfig, targets: tuple[str, ...], lines: LogLines
) -> tuple[memoryview, ParsedNetwork]:
    logger = make_logger(trt, lines, verbose=True)
    builder = _start(trt, logger, lines)
    with native_output(lines):
        parsed = parse_network(trt, builder, logger, lines, graph)
        builder_config = _builder_config(trt, builder, config, targets)
        for shapes in _profiles(graph, config):
            add_profile(builder, parsed.network, builder_config, inputs=graph.inputs, shapes=shapes)
        plan = builder.build_serialized_network(parsed.network, builder_config)
    if plan is None or lines.errors:
        where = f" for {', '.join(targets)}" if targets else ""
        raise BuildError(f"TensorRT cannot build the engine{where}: {lines.take_problems()}")
    return memoryview(plan), parsed


def _profiles(graph: Graph, config: BuildConfig) -> tuple[ShapeProfile, ...]:
    caches = tuple(caches_of(graph).values())
    return engine_profiles(config.profiles, config.profile, graph.inputs, caches)


def _kernels(listing: EngineListing, profiles: int) -> list[dict[str, Any]]:
    """Of each profile; empty when the log lists none."""
    listed = range(profiles) if listing.kernels else ()
    return [listing.of_profile(index).summary() for index in listed]


def _decode_kernels(
    listing: EngineListing, config: BuildConfig, profiles: tuple[ShapeProfile, ...]
) -> dict[str, Any] | None:
    """Of the profile that a decoder has beyond those asked for."""
    last = len(profiles) - 1
    return listing.of_profile(last).summary() if last >= max(1, len(config.profiles)) else None


def _sizes(shapes: ShapeProfile) -> dict[str, list[int]]:
    return {name: list(sizes) for name, sizes in shapes.axes.items()}


def _start(trt: Any, logger: Any, lines: LogLines) -> Any:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # the bindings' form of a null pointer
        raise BuildError(f"TensorRT cannot start: {lines.take_problems()}") from error


def _builder_config(trt: Any, builder: Any, config: BuildConfig, targets: tuple[str, ...]) -> Any:
    builder_config = builder.create_builder_config()
    builder_config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    builder_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_bytes)
    if targets and hasattr(trt, "ComputeCapability"):
        builder_config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            capability = trt.ComputeCapability.__members__[name]
            if not builder_config.set_compute_capability(capability, index):
                raise BuildError(f"TensorRT refuses to compile for {name}; leave it out")
    return builder_config


def _write(path: Path, content: bytes | memoryview) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BuildError(
            f"cannot write {path.name} of {len(content):,} bytes to {path.parent}: "
            f"{error.strerror}; free space or choose another folder"
        ) from error
