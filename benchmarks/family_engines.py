"""TensorRT-RTX engines of every family, built without a GPU: which attention is a fused kernel.

    python benchmarks/family_engines.py [--only NAME ...] [--targets SM80 ...] [--json FILE]

Each family is exported with random weights, lowered to float16 and compiled for each GPU by
itself. A decoder with a cache has a second profile for one token a row, counted by itself. The
exit status is 1 when an attention is left to single kernels.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from families.engines import CACHE_LENGTH, EngineCell, compiled, exported, main
from families.models import FAMILIES, SMALL, Family

from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering

TARGETS = ("SM80", "SM89", "SM120")


@dataclass(frozen=True, kw_only=True)
class AttentionCell(EngineCell):
    """The attention of one family on one GPU.

    Attributes:
        decoding: fused attention kernels of the profile for one token a row; None without a cache.
        unfused: why the others are none.
        kernels: of the first profile.
    """

    decoding: int | None
    unfused: tuple[str, ...]
    kernels: int

    @property
    def passed(self) -> bool:
        """Whether every attention is a fused kernel in every profile."""
        return super().passed and self.decoding in (None, self.blocks)

    def __str__(self) -> str:
        """One line of the table."""
        decoding = "" if self.decoding is None else f", {self.decoding}/{self.blocks} decoding"
        lost = f"  {'; '.join(self.unfused)}" if self.unfused else ""
        return (
            f"{self.family:14} {self.target:6} {self.fused}/{self.blocks} fused{decoding}, "
            f"{self.kernels} kernels, {self.bytes:,} bytes, {self.seconds:.1f} s{lost}"
        )


def lowered(family: Family) -> Graph:
    """The float16 graph of a family."""
    with tempfile.TemporaryDirectory() as folder:
        graph = exported(family, Path(folder) / "model.onnx")
        passes = (*CANONICAL, *lowering("tensorrt-rtx", "fp16", cache_length=CACHE_LENGTH))
        return PassPipeline(passes).run(graph)


def build(family: Family, graph: Graph, target: str) -> AttentionCell:
    """Compile for one GPU and count."""
    artifact, seconds = compiled(graph, target)
    facts = artifact.facts
    decoding = facts["decode_kernels"]
    return AttentionCell(
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
        seconds=seconds,
    )


def cells(only: Sequence[str], targets: Sequence[str]) -> Iterator[AttentionCell]:
    """Every cell, as it is done."""
    for family in FAMILIES:
        if not only or family.name in only:
            graph = lowered(family)
            yield from (build(family, graph, target) for target in targets)


if __name__ == "__main__":
    sys.exit(main(__doc__.splitlines()[0], TARGETS, cells))
