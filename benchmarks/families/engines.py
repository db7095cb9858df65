"""What benchmarks of every family's engines share: export, compile for one GPU, table, status."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fuselage.engines.base import BuildConfig, EngineArtifact
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

from .exporters import CannotExportError, Spelling, export
from .models import SMALL, Family, Width

CACHE_LENGTH = 128
"""Tokens that the cache of a decoder holds."""


@dataclass(frozen=True, kw_only=True)
class EngineCell:
    """One family on one GPU.

    Attributes:
        family: its name.
        target: compute capability.
        blocks: attention blocks of the model.
        fused: fused attention kernels.
        bytes: of the plan.
        seconds: to build.
    """

    family: str
    target: str
    blocks: int
    fused: int
    bytes: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every attention is a fused kernel."""
        return self.fused == self.blocks


Cells = Callable[[Sequence[str], Sequence[str]], Iterator[EngineCell]]
"""Names of families, all when empty, and GPUs to cells."""


def exported(family: Family, path: Path, width: Width = SMALL) -> Graph:
    """The graph of a family, through the exporter its users are likely to have."""
    try:
        export(family, Spelling("dynamo", "sdpa"), path, width)
    except CannotExportError:
        export(family, Spelling("dynamo", "eager"), path, width)
    return Graph.load(path)


def compiled(graph: Graph, target: str) -> tuple[EngineArtifact, float]:
    """Compile for one GPU; what TensorRT-RTX says, and seconds."""
    axes = {
        dim: (1, 2, 4) if axis == 0 else (1, 16, 64)
        for spec in graph.inputs
        for axis, dim in enumerate(spec.dims)
        if isinstance(dim, str)
    }
    config = BuildConfig(profile=ShapeProfile(axes), compute_capabilities=(target,))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        artifact = TensorRtBackend.of("tensorrt-rtx").build(graph, config, Path(folder))
    return artifact, time.perf_counter() - started


def main(title: str, targets: Sequence[str], cells: Cells) -> int:
    """Read the arguments, print and write the cells.

    Args:
        title: of the benchmark.
        targets: GPUs by default.
        cells: builds what was asked for.

    Returns:
        The exit status: 1 when a cell did not pass.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="families to build")
    parser.add_argument("--targets", nargs="*", default=targets, metavar="SM", help="GPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells")
    arguments = parser.parse_args()
    done = []
    for cell in cells(arguments.only, arguments.targets):
        print(cell, flush=True)
        done.append(cell)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(cell) for cell in done], indent=1) + "\n")
    failed = [f"{cell.family} {cell.target}" for cell in done if not cell.passed]
    print(f"\n{len(done)} engines, {len(failed)} incomplete", *failed)
    return 1 if failed else 0
