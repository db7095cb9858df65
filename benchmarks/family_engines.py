"""TensorRT-RTX engines of every family, built without a GPU: which attention is a fused kernel.

    python benchmarks/family_engines.py [--only NAME ...] [--targets SM80 ...] [--json FILE]

Each family is exported with random weights, lowered to float16 and compiled for each GPU by
itself. A decoder with a cache has a second profile for one token a row, counted by itself. The
exit status is 1 when an attention is left to single kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from families.exporters import CannotExportError, Spelling, export
from families.models import FAMILIES, SMALL, Family

from fuselage.engines.base import BuildConfig
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering

TARGETS = ("SM80", "SM89", "SM120")
CACHE_LENGTH = 128


@dataclass(frozen=True, kw_only=True)
class EngineCell:
    """One family on one GPU.

    Attributes:
        blocks: attention blocks of the model.
        fused: fused attention kernels.
        decoding: fused attention kernels of the profile for one token a row; None without a cache.
        unfused: why the others are none.
        kernels: of the first profile.
        bytes: of the plan.
        seconds: to build.
    """

    family: str
    target: str
    blocks: int
    fused: int
    decoding: int | None
    unfused: tuple[str, ...]
    kernels: int
    bytes: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every attention is a fused kernel in every profile."""
        return self.fused == self.blocks and self.decoding in (None, self.blocks)

    def __str__(self) -> str:
        """One line of the table."""
        decoding = "" if self.decoding is None else f", {self.decoding}/{self.blocks} decoding"
        lost = f"  {'; '.join(self.unfused)}" if self.unfused else ""
        return (
            f"{self.family:14} {self.target:6} {self.fused}/{self.blocks} fused{decoding}, "
            f"{self.kernels} kernels, {self.bytes:,} bytes, {self.seconds:.1f} s{lost}"
        )


def lowered(family: Family) -> Graph:
    """The float16 graph of a family, through the exporter its users are likely to have."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export(family, Spelling("dynamo", "sdpa"), path)
        except CannotExportError:
            export(family, Spelling("dynamo", "eager"), path)
        passes = (*CANONICAL, *lowering("tensorrt-rtx", "fp16", cache_length=CACHE_LENGTH))
        return PassPipeline(passes).run(Graph.load(path))


def build(family: Family, graph: Graph, target: str) -> EngineCell:
    """Compile for one GPU and count."""
    axes = {
        dim: (1, 2, 4) if axis == 0 else (1, 16, 64)
        for spec in graph.inputs
        for axis, dim in enumerate(spec.dims)
        if isinstance(dim, str)
    }
    config = BuildConfig(profile=ShapeProfile(axes), compute_capabilities=(target,))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        facts = TensorRtBackend.of("tensorrt-rtx").build(graph, config, Path(folder)).facts
    decoding = facts["decode_kernels"]
    return EngineCell(
        family=family.name,
        target=target,
        blocks=family.blocks(SMALL),
        fused=facts["kernels"]["fused_attention"],
        decoding=None if decoding is None else decoding["fused_attention"],
        unfused=tuple(
            f"{lost['node']}: {lost['reason']}" for lost in facts["decomposed_attention"]
        ),
        kernels=facts["kernels"]["total"],
        bytes=facts["bytes"],
        seconds=time.perf_counter() - started,
    )


def cells(only: Sequence[str], targets: Sequence[str]) -> Iterator[EngineCell]:
    """Every cell, printed as it is done."""
    for family in FAMILIES:
        if only and family.name not in only:
            continue
        graph = lowered(family)
        for target in targets:
            one = build(family, graph, target)
            print(one, flush=True)
            yield one


def main() -> int:
    """Print the table, and say by the exit status whether every attention is fused."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="families to build")
    parser.add_argument("--targets", nargs="*", default=TARGETS, metavar="SM", help="GPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells")
    arguments = parser.parse_args()
    done = list(cells(arguments.only, arguments.targets))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")
    lost = [f"{one.family} {one.target}" for one in done if not one.passed]
    print(f"{len(done)} engines, {len(lost)} incomplete{': ' if lost else ''}{', '.join(lost)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
