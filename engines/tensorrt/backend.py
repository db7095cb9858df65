"""TensorRtBackend: an ONNX graph in, a plan and its facts out; and back in again to run."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BuildError, DeviceError
from ..base import ENGINE_FACTS, BuildConfig, Engine, EngineArtifact, LoadOptions
from ..mismatch import Mismatch
from .cuda import Cuda
from .engine import TensorRtEngine
from .facts import PlanFacts
from .fit import differences, this_machine
from .flavour import FLAVOURS, Flavour, choose_compute_capabilities
from .log import LogLines, make_logger
from .native_output import native_output
from .network import ParsedNetwork, parse_network
from .plan import open_plan
from .profiles import add_profile
from .statement import plan_facts, profiles_of
from .timing_cache import Timings
from .weights.mode import WeightMode, refuse_mode, set_flags
from .weights.refill import refill, serialized
from .weights.refusal import check_refittable
from .weights.table import OWN, STUB, read_weights, weights_of, write_stub, write_table

if TYPE_CHECKING:
    from ...graph.model import Graph

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
        mode = WeightMode.of(config)
        refuse_mode(self.flavour, mode, targets)
        started = time.perf_counter()
        lines = LogLines()
        timings = Timings.of(self.flavour, config.timings)
        plan, parsed = _compile(trt, graph, config, targets, lines, timings)
        seconds = time.perf_counter() - started
        facts = plan_facts(
            graph, config, plan, lines, parsed.decomposed, gpu_memory=self._gpu_memory(config)
        ) | {
            "target": self.target,
            "package": self.flavour.distribution,
            "compute_capabilities": list(targets),
            "package_version": str(trt.__version__),
            "build_seconds": round(seconds, 3),
            "built_on": self._built_on(),
            "weights": mode.facts(),
        }
        facts["warnings"] += timings.notes
        return self._written(plan, facts, graph, config, folder)

    def check_mode(self, mode: WeightMode, compute_capabilities: tuple[str, ...]) -> None:
        """Refuse plans that take weights where this machine cannot build them.

        Raises:
            BuildError: with the reason and what to do.
        """
        trt = self.flavour.module()
        targets = choose_compute_capabilities(self.flavour, trt, compute_capabilities)
        refuse_mode(self.flavour, mode, targets)

    def load(self, folder: Path, options: LoadOptions) -> Engine:
        """Open a plan on the current GPU.

        Args:
            folder: what `build` wrote.
            options: threads have no meaning here; the source is read for a plan that was written
                without weights alone: it never runs in place of a plan.

        Raises:
            MissingPackageError: when the flavour's package or cuda-bindings is not installed.
            DeviceError: when the driver, the GPU or the package's version cannot run the plan.
            BundleError: when the files are not what `build` writes.
        """
        facts = PlanFacts.read(folder / ENGINE_FACTS, self.target)
        if facts.mode.stripped and options.source is None:
            raise DeviceError(
                f"{folder.name}: this plan was built without its weights (--strip-plan), which are "
                "in the graph of its bundle; open it through the bundle"
            )
        plan = facts.read_plan(folder / PLAN)
        trt = self.flavour.module()
        cuda = Cuda.open()
        cuda.require_device()
        weights = None
        if facts.mode.stripped and options.source is not None:
            weights = read_weights(folder, facts.table, options.source)
        return TensorRtEngine.open(trt, cuda, plan, facts, options.executor, weights)

    def refit(self, old: Path, graph: Graph, config: BuildConfig, folder: Path) -> EngineArtifact:
        """Make an engine of a plan that takes weights and a graph that differs in them alone.

        A plan that was written without weights is copied, which needs no GPU.

        Args:
            old: folder of the engine; it stays as it is.
            graph: with the new weights.
            config: `source` is read.
            folder: existing and empty; nothing is written before the plan has its weights.

        Raises:
            BuildError: when the plan takes no other weights, or the graph is of another form.
            DeviceError: when this machine cannot open the plan, or TensorRT does not refit it.
            BundleError: when the files are not what `build` writes.
        """
        facts = PlanFacts.read(old / ENGINE_FACTS, self.target)
        plan = facts.read_plan(old / PLAN)
        check_refittable(old, facts.mode, graph)
        if not facts.mode.stripped:
            plan = self._refitted(plan, facts, graph)
        content = json.loads((old / ENGINE_FACTS).read_bytes())
        content |= {"bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
        config = replace(config, refittable=True, stripped=facts.mode.stripped)
        return self._written(plan, content, graph, config, folder)

    def _refitted(self, plan: bytes, facts: PlanFacts, graph: Graph) -> bytes:
        trt = self.flavour.module()
        cuda = Cuda.open()
        cuda.require_device()
        opened = open_plan(trt, cuda, plan, facts)
        refill(opened, weights_of(graph))
        return serialized(opened)

    def _written(
        self,
        plan: bytes | memoryview,
        facts: dict[str, Any],
        graph: Graph,
        config: BuildConfig,
        folder: Path,
    ) -> EngineArtifact:
        _write(folder / PLAN, plan)
        facts |= _write_weights(graph, config, folder)
        text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
        _write(folder / ENGINE_FACTS, text.encode())
        beside = tuple(name for name in (STUB, OWN) if (folder / name).exists())
        return EngineArtifact(target=self.target, files=(PLAN, ENGINE_FACTS, *beside), facts=facts)

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


def _compile(
    trt: Any,
    graph: Graph,
    config: BuildConfig,
    targets: tuple[str, ...],
    lines: LogLines,
    timings: Timings,
) -> tuple[memoryview, ParsedNetwork]:
    logger = make_logger(trt, lines, verbose=True)
    builder = _start(trt, logger, lines)
    with native_output(lines):
        parsed = parse_network(trt, builder, logger, lines, graph)
        builder_config = _builder_config(trt, builder, config, targets)
        for shapes in profiles_of(graph, config):
            add_profile(builder, parsed.network, builder_config, inputs=graph.inputs, shapes=shapes)
        timings.attach(builder_config, lines)
        plan = builder.build_serialized_network(parsed.network, builder_config)
    if plan is None or lines.errors:
        where = f" for {', '.join(targets)}" if targets else ""
        raise BuildError(f"TensorRT cannot build the engine{where}: {lines.take_problems()}")
    timings.keep(builder_config, lines)
    return memoryview(plan), parsed


def _write_weights(graph: Graph, config: BuildConfig, folder: Path) -> dict[str, Any]:
    """What a plan that takes weights needs beside it."""
    if WeightMode.of(config).refit is None:
        return {}
    write_stub(graph, folder)
    if not config.stripped:
        return {}
    return {"weight_table": write_table(graph, config.source, folder)}


def _start(trt: Any, logger: Any, lines: LogLines) -> Any:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # the bindings' form of a null pointer
        raise BuildError(f"TensorRT cannot start: {lines.take_problems()}") from error


def _builder_config(trt: Any, builder: Any, config: BuildConfig, targets: tuple[str, ...]) -> Any:
    builder_config = builder.create_builder_config()
    builder_config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    builder_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_bytes)
    # It rounds fp32 operands to 10 bits of mantissa and is on by default; precision is the graph's.
    builder_config.clear_flag(trt.BuilderFlag.TF32)
    set_flags(trt, builder_config, WeightMode.of(config))
    # Else a run may allocate: beyond what lanes are given, and no graph can record it. Weights that
    # stream need that.
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION") and not WeightMode.of(config).streamed:
        builder_config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
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
