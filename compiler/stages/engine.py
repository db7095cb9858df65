"""The engine of one target."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...engines import host
from ...engines.base import BuildConfig, Engine, EngineArtifact, LoadOptions
from ...engines.bundle import SOURCE
from ...engines.targets import backend
from ...engines.tensorrt.backend import TensorRtBackend
from ...engines.text.packed_engine import opened
from ..cache.code import ENGINE, code_digest
from ..cache.entry import content_digest, hash_files
from ..cache.timings import StoredTimings
from ..packing import keep_cost, packed_shapes
from ..profiles.plan import ShapePlan
from ..progress import Journal
from .context import Context, versions
from .lower import LoweredGraph
from .product import Product

COMPILED = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class BuiltEngine:
    """One target: the graph it was lowered to and what its backend made of it.

    Attributes:
        lowered: the graph.
        product: the engine's folder in the bundle.
    """

    lowered: LoweredGraph
    product: Product

    @property
    def target(self) -> str:
        """Of the engine."""
        return self.lowered.target

    @property
    def artifact(self) -> EngineArtifact:
        """What the backend said."""
        facts = self.product.facts
        return EngineArtifact(target=self.target, files=tuple(facts["files"]), facts=facts["facts"])

    def load(self, threads: int) -> Engine:
        """Open it."""
        folder = self.product.folder
        # A plan may take its weights from there; another engine must not take the graph instead.
        source = folder.parent / SOURCE if self.target in COMPILED else None
        options = LoadOptions(threads=threads, source=source)
        return opened(backend(self.target).load(folder, options), folder)


def build_engine(context: Context, lowered: LoweredGraph, shapes: ShapePlan) -> BuiltEngine:
    """Build the engine into its folder of the bundle, or copy the one there is."""
    target = lowered.target
    is_packed = context.request.layout == "packed"
    sizes, profiles = packed_shapes(shapes) if is_packed else (shapes.whole, shapes.profiles)
    config = BuildConfig(
        profile=sizes,
        profiles=profiles,
        buckets=() if is_packed else shapes.buckets,
        compute_capabilities=lowered.compute_capabilities,
        gpu_memory=gpu_bytes(context.request.gpu_memory),
        threads=context.request.threads,
        refittable=context.request.refittable,
        stripped=context.request.strip_plan,
        weight_streaming=context.request.weight_streaming,
    )

    plan = None if context.held is None else context.held.plans.get(target)

    def make(folder: Path, journal: Journal) -> dict[str, Any]:
        graph = lowered.load()
        whole = _with_stores(context, lowered, config)
        if plan is None:
            artifact = backend(target).build(graph, whole, folder)
        else:
            artifact = TensorRtBackend.of(target).refit(plan, graph, whole, folder)
        if is_packed and backend(target).run_blocker() is None:
            with backend(target).load(folder, LoadOptions(threads=config.threads)) as engine:
                artifact = keep_cost(engine, artifact, folder)
        for line in artifact.facts.get("warnings", ()):
            journal.note(f"{target}: {line}")
        decomposed = artifact.facts.get("decomposed_attention", ())
        if decomposed:
            reason = decomposed[0]["reason"]
            journal.note(f"{target}: {len(decomposed)} attentions are not fused: {reason}")
        nodes = len(graph.model.graph)
        journal.record(f"build {target}", artifact.facts["build_seconds"], nodes, nodes)
        return {"files": list(artifact.files), "facts": dict(artifact.facts)}

    fields = _fields(lowered, config)
    if plan is not None:
        fields["refitted"] = content_digest(hash_files(plan))
    key = context.key("engine", fields, target=target)
    title = f"{'build' if plan is None else 'refit'} {target} {lowered.precision}"
    product = context.runner.run(key, title, make, context.writer.folder(target))
    product.fetch()
    return BuiltEngine(lowered, product)


def _with_stores(context: Context, lowered: LoweredGraph, config: BuildConfig) -> BuildConfig:
    """With what has no say in what the engine is."""
    return replace(
        config,
        source=lowered.canonical.load() if config.stripped else None,
        timings=StoredTimings.of(context.runner.kept, lowered.target)
        if lowered.target == "tensorrt"
        else None,
    )


def gpu_bytes(gibibytes: float | None) -> int | None:
    """The memory of a GPU as `BuildConfig` holds it."""
    return None if gibibytes is None else int(gibibytes * (1 << 30))


def target_packages(target: str) -> tuple[str, ...]:
    """Packages whose version an engine holds for."""
    return (target,) if target in COMPILED else ("onnxruntime", "onnxruntime-gpu")


def _fields(lowered: LoweredGraph, config: BuildConfig) -> dict[str, Any]:
    settings = asdict(config)
    del settings["source"], settings["timings"]
    if lowered.target in COMPILED:
        settings.pop("threads")
    return {
        "graph": lowered.digest,
        # A plan without weights says where in this graph they are.
        "weights": lowered.canonical.digest if config.stripped else None,
        "config": settings,
        "machine": _machine(lowered.target),
        "versions": versions("numpy", "onnx", "onnx-ir", *target_packages(lowered.target)),
        "code": code_digest(ENGINE),
    }


def _machine(target: str) -> dict[str, Any]:
    """What an engine is tuned for; nothing for one that is compiled ahead of time."""
    if target == "tensorrt-rtx":
        return {"arch": host.cpu().arch, "system": sys.platform}
    if target == "ort-cpu":
        here = host.cpu()
        return {"cpu": here.model, "flags": list(here.flags), "cores": here.physical_cores}
    return {"gpus": [asdict(gpu) for gpu in host.gpus()], "driver": host.nvidia_driver()}
