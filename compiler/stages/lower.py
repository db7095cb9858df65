"""The graph of one target: lowered, linted, and known by its digest before anybody needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines import host
from ...graph.history import StageRecord
from ..cache.code import code_digest
from ..packing import pack_graph
from ..precision import QUANTIZED, gpus_for
from ..progress import Journal, Silent
from .canonicalise import PACKAGES, run_and_tell
from .context import Context, versions
from .kept_graph import KeptGraph, graph_facts
from .product import Product, records_of
from .quantise import QuantisedModel

if TYPE_CHECKING:
    from ...graph.model import Graph
    from ...passes.presets import Precision


@dataclass
class LoweredGraph:
    """The graph an engine is built from. It is not kept: the passes are quicker than a disk.

    Attributes:
        context: of the build.
        target: of the engine.
        canonical: what it was lowered from in a float build.
        quantised: what it was lowered from otherwise; None for a float target.
        product: its facts; None before they are known.
    """

    context: Context
    target: str
    canonical: KeptGraph
    quantised: QuantisedModel | None
    product: Product | None = None
    _graph: Graph | None = field(default=None, repr=False)

    @property
    def precision(self) -> Precision:
        """Of the target."""
        return self.context.assignment.precisions[self.target]

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """To compile for."""
        asked = self.context.request.compute_capabilities
        return gpus_for(self.target, self.precision, asked)

    @property
    def digest(self) -> str:
        """`Graph.digest` of it."""
        assert self.product is not None
        return str(self.product.facts["digest"])

    @property
    def history(self) -> tuple[StageRecord, ...]:
        """What happened to it, from the export on."""
        assert self.product is not None
        return records_of(self.product.facts["history"])

    def load(self) -> Graph:
        """The graph; lowered again when its facts came from the cache."""
        if self._graph is None:
            self._lower(Journal(Silent()))
        assert self._graph is not None
        return self._graph

    def make(self, folder: Path, journal: Journal) -> dict[str, Any]:
        """Lower the graph and hold it to the lint of its target."""
        del folder
        from ..checks.traps import refuse_traps
        from ..quantization.formats import CAVEATS

        if caveat := CAVEATS.get((self.target, self.precision)):
            journal.note(f"{self.target} {self.precision}: {caveat}")
        graph = self._lower(journal)
        refuse_traps(graph, self.target, self.compute_capabilities, journal)
        return graph_facts(graph)

    def fields(self) -> dict[str, Any]:
        """Everything that has a say in it."""
        recipe = self.context.recipe
        source = self.canonical if self.quantised is None else self.quantised.graph
        return {
            "graph": source.digest,
            "unquantised": None if self.quantised is None else self.canonical.digest,
            "precision": self.precision,
            "compute_capabilities": list(self.compute_capabilities),
            "vnni": host.has_vnni() if self.target == "ort-cpu" else None,
            "costs": recipe["costs"],
            "layout": self.context.request.layout,
            "verify": self.context.request.verify,
            "versions": versions(*PACKAGES),
            "code": code_digest(),
        }

    def _lower(self, journal: Journal) -> Graph:
        from ...passes.costs import CostTable
        from ...passes.presets import lowering

        costs = self.context.request.costs
        passes = lowering(
            self.target,
            self.precision,
            uint8_activations=host.has_vnni(),
            costs=None if costs is None else CostTable.load(costs),
        )
        unquantized = None if self.quantised is None else self.canonical.load()
        source = self.canonical if self.quantised is None else self.quantised.graph
        graph = source.load()
        if self.context.request.layout == "packed":
            graph = pack_graph(graph, journal.note)
            unquantized = None if unquantized is None else pack_graph(unquantized)
        self._graph = run_and_tell(
            self.context,
            passes,
            graph,
            journal,
            canonical=True,
            unquantized=unquantized,
        )
        return self._graph


def lower(
    context: Context, target: str, canonical: KeptGraph, quantised: QuantisedModel | None
) -> LoweredGraph:
    """Lower the graph of a target, or find what is known about it.

    Raises:
        BuildError: when the target cannot build it, with the node and what to do.
    """
    is_quantised = context.assignment.precisions[target] in QUANTIZED
    lowered = LoweredGraph(context, target, canonical, quantised if is_quantised else None)
    key = context.key("lower", lowered.fields(), target=target)
    lowered.product = context.runner.run(key, f"lower for {target}", lowered.make)
    return lowered
