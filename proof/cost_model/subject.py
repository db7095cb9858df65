"""What a cost model is made of: an engine of a bundle, or an ONNX file as it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ...compiler.precision import QUANTIZED
from ...compiler.precisions.cost import RATES
from ...engines.base import ENGINE_FACTS
from ...engines.bundle import Bundle
from ...engines.ort.backend import MODEL
from ...errors import BundleError
from ...graph.model import Graph
from ...passes.pipeline import PassPipeline
from ...passes.presets import Precision, lowering

_RUN_BY_ORT = "ort-cpu"


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A graph and what runs it.

    Attributes:
        name: path of the bundle or the file.
        target: of the engine; None for a file.
        precision: of the engine; None for a file.
        path: the ONNX file that is counted.
        graph: the same, read.
        source: the canonical graph of the bundle; None for a file.
        kernels: ``kernel_list`` of a TensorRT engine; empty for others.
        capabilities: what a TensorRT engine was compiled for.
        notes: what the reader should know.
    """

    name: str
    target: str | None = None
    precision: str | None = None
    path: Path
    graph: Graph
    source: Graph | None = None
    kernels: tuple[Mapping[str, Any], ...] = ()
    capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether the engine runs on a GPU."""
        return self.target not in (None, _RUN_BY_ORT)

    @property
    def capability(self) -> str:
        """The newest GPU the engine is for of those with a data sheet, else the newest."""
        known = [name for name in self.capabilities if name in RATES]
        return (known or list(self.capabilities) or ["SM90"])[-1]


def open_file(path: Path) -> Costed:
    """An ONNX file, counted and run as it is written.

    Raises:
        GraphError: when it is no sound ONNX file.
    """
    return Costed(name=str(path), path=path, graph=Graph.load(path))


def open_engine(path: Path, target: str | None = None) -> Costed:
    """An engine of a bundle.

    Args:
        path: of the bundle.
        target: name of the engine; None for ``ort-cpu`` where the bundle has it, else the first.

    Raises:
        BundleError: when the bundle is damaged, lacks the target, or has no canonical graph.
    """
    bundle = Bundle.open(path)
    chosen = target or (_RUN_BY_ORT if _RUN_BY_ORT in bundle.targets else bundle.targets[0])
    folder = bundle.folder(chosen)
    canonical = bundle.source
    if canonical is None:
        raise BundleError(f"{path}: this bundle has no canonical graph to count; build it again")
    source, entry = Graph.load(canonical), bundle.manifest.targets[chosen]
    optimised = folder / MODEL
    if not optimised.is_file():
        facts = _facts(folder / ENGINE_FACTS)
        graph, note = _lowered(source, chosen, entry.precision)
        return Costed(
            name=str(path),
            target=chosen,
            precision=entry.precision,
            path=canonical,
            graph=graph,
            source=source,
            kernels=tuple(facts.get("kernel_list") or ()),
            capabilities=tuple(facts.get("compute_capabilities") or ()),
            notes=(note,),
        )
    notes: tuple[str, ...] = ()
    graph = source
    mismatches = "; ".join(map(str, bundle.mismatches(chosen)))
    if mismatches:
        optimised = canonical
        notes = (f"{chosen}: {mismatches}; the canonical graph is counted and run instead",)
    else:
        graph = Graph.load(optimised)
    return Costed(
        name=str(path),
        target=chosen,
        precision=entry.precision,
        path=optimised,
        graph=graph,
        source=source,
        notes=notes,
    )


def _lowered(source: Graph, target: str, precision: str) -> tuple[Graph, str]:
    """The graph a plan was built from, as far as the bundle's canonical graph can be lowered."""
    passes = lowering(target.partition("@")[0], cast(Precision, precision))
    graph = PassPipeline(passes, verify="off").run(source)
    note = f"{target}: a plan does not show its nodes; those of the graph it was built from count"
    if precision in QUANTIZED:
        note += ", without what quantises: products move more bytes there than in the plan"
    return graph, note


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, got {error}; build the bundle again") from error
    if not isinstance(facts, dict):
        raise BundleError(f"{path}: expected a JSON object; build the bundle again")
    return facts
