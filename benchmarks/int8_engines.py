"""INT8 engines of the families, built without a GPU: which planned linears are INT8 kernels.

    python benchmarks/int8_engines.py [--only NAME ...] [--targets SM80 ...] [--json FILE]

Each family is exported with random weights, calibrated on random token ids, quantised, held to
both lints, lowered to float16 and compiled for each GPU by itself. The exit status is 1 when a
lint finds something, or a planned linear or an attention is not the kernel it was meant to be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from families.exporters import CannotExportError, Spelling, export
from families.models import FAMILIES, VOCABULARY, Family, Width

from fuselage.calibration.damage.quality import Quality, measure_quality
from fuselage.calibration.run import calibrate
from fuselage.calibration.session import GraphSession
from fuselage.calibration.text.batches import Batch
from fuselage.calibration.text.data import CalibrationSet
from fuselage.calibration.text.samples import Sample, TokenIds
from fuselage.calibration.text.tokenization import Tokenize, TokenRow
from fuselage.compiler.checks.audit import lost_fusions
from fuselage.compiler.checks.traps import refuse_traps
from fuselage.compiler.progress import Journal, Silent
from fuselage.compiler.quantization.quantizable import quantizable
from fuselage.engines.base import BuildConfig
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile, TensorSpec
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering
from fuselage.passes.qdq.linears import scale_weight, weight_of
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.policy import QuantPlan, QuantPolicy

TARGETS = ("SM80", "SM86", "SM89", "SM120")
WIDTH = Width(hidden=128, heads=4, kv_heads=2, inner=256, layers=2)
CACHE_LENGTH = 128
TEXTS = 48
"""Rows of token ids; a sixth of them only measures."""


class TokenSet(CalibrationSet):
    """Token ids for any graph of a family: a cache that the graph reads is empty."""

    def batches(
        self, tokenize: Tokenize, inputs: Sequence[TensorSpec], *, max_tokens: int = 1024
    ) -> tuple[Batch, ...]:
        """Fill the caches too, ``[texts, heads, 0, size]``; a decoder reads the same tokens."""
        caches = [spec for spec in inputs if spec.name.startswith("past_")]
        others = [spec for spec in inputs if spec not in caches]
        return tuple(
            replace(batch, feeds=batch.feeds | _empty(caches, len(batch.indices)))
            for batch in super().batches(tokenize, others, max_tokens=max_tokens)
        )


def _empty(caches: Sequence[TensorSpec], texts: int) -> dict[str, np.ndarray]:
    return {
        spec.name: np.zeros((texts, spec.dims[1], 0, spec.dims[3]), spec.dtype) for spec in caches
    }


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A family in INT8.

    Attributes:
        graph: with Q/DQ, in float32.
        lowered: what TensorRT builds.
        plan: which linears are INT8.
        findings: of the Q/DQ lint.
        quality: against the float graph, on rows the ranges do not come from.
    """

    graph: Graph
    lowered: Graph
    plan: QuantPlan
    findings: tuple[str, ...]
    quality: Quality


@dataclass(frozen=True, kw_only=True)
class EngineCell:
    """One family on one GPU.

    Attributes:
        planned: linears that are meant to be INT8.
        float_linears: products with a constant that stay float, each with its reason.
        int8_gemms: kernels of the first profile that multiply INT8.
        blocks: attention blocks of the model.
        fused: fused attention kernels.
        lost: what the audit misses.
        findings: of the Q/DQ lint; what the TensorRT lint calls an error ends the run.
        notes: what the TensorRT lint warns of.
        bytes: of the plan.
        seconds: to build.
    """

    family: str
    target: str
    planned: int
    float_linears: tuple[str, ...]
    int8_gemms: int
    blocks: int
    fused: int
    lost: tuple[str, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    sqnr_db: float
    cosine_mean: float
    bytes: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether everything that was planned is there, and nothing is wrong with the graph."""
        return self.fused == self.blocks and not self.lost and not self.findings

    def __str__(self) -> str:
        """One row of the table."""
        problems = "; ".join((*self.lost, *self.findings)) or "none"
        return (
            f"| {self.family} | {self.target} | {self.planned} | {self.int8_gemms} | "
            f"{self.fused} of {self.blocks} | {self.sqnr_db:.1f} | {self.cosine_mean:.4f} | "
            f"{self.bytes / 1e6:.2f} | {problems} |"
        )


HEADER = """\
| family | GPU | planned linears | INT8 GEMM kernels | fused attention | SQNR, dB | mean cosine | \
plan, MB | lost |
|---|---|---|---|---|---|---|---|---|"""


def quantised(family: Family) -> Quantised:
    """Export, calibrate, insert Q/DQ and lower."""
    with tempfile.TemporaryDirectory() as folder:
        exported = _exported(family, Path(folder) / "model.onnx")
        graph = quantizable(PassPipeline(CANONICAL).run(exported))
        _strengthen(graph)
        fit, held_out = _texts().split(TEXTS // 6)
        table = calibrate(graph, fit, _rows)
        int8 = PassPipeline(table.passes()).run(graph)
        passes = lowering("tensorrt-rtx", "int8", cache_length=CACHE_LENGTH)
        lowered = PassPipeline(passes).run(int8)
        with GraphSession(graph) as reference, GraphSession(int8) as candidate:
            batches = held_out.batches(_rows, graph.inputs)
            outputs = [graph.outputs[0].name]
            quality = measure_quality(reference, candidate, batches, outputs=outputs)
        findings = [f"{found.rule}: {found.reason}" for found in lint_qdq(lowered.model)]
        return Quantised(
            graph=int8,
            lowered=lowered,
            plan=QuantPolicy().plan(graph.model),
            findings=tuple(dict.fromkeys(findings)),
            quality=quality,
        )


def _exported(family: Family, path: Path) -> Graph:
    try:
        export(family, Spelling("dynamo", "sdpa"), path, WIDTH)
    except CannotExportError:
        export(family, Spelling("dynamo", "eager"), path, WIDTH)
    return Graph.load(path)


def _strengthen(graph: Graph) -> None:
    """Let linears keep the variance: at their first 0.02 a layer hardly moves the residual."""
    nodes = {node.outputs[0].name: node for node in graph.model.graph}
    values = graph.model.graph.initializers
    for linear in QuantPolicy().plan(graph.model).linears:
        if len(values[linear.weight].uses()) > 1:  # tied: the embedding keeps its size
            continue
        node = nodes[linear.output]
        gain = 1 / (float(weight_of(node).std()) * linear.depth**0.5)
        scale_weight(graph.model.graph, node, rows=np.full(linear.depth, gain, np.float32))


def _texts() -> TokenSet:
    random = np.random.default_rng(0)
    rows = (random.integers(5, VOCABULARY, random.integers(1, 48)) for _ in range(TEXTS))
    return TokenSet.from_texts([row.tolist() for row in rows], source="random token ids")


def _rows(texts: Sequence[Sample]) -> Sequence[TokenRow]:
    return [TokenRow(list(row.ids), ()) for row in texts if isinstance(row, TokenIds)]


def build(family: Family, made: Quantised, target: str) -> EngineCell:
    """Compile for one GPU and audit."""
    axes = {
        dim: (1, 2, 4) if axis == 0 else (1, 16, 64)
        for spec in made.lowered.inputs
        for axis, dim in enumerate(spec.dims)
        if isinstance(dim, str)
    }
    journal = Journal(Silent())
    refuse_traps(made.lowered, "tensorrt-rtx", (target,), journal)
    config = BuildConfig(profile=ShapeProfile(axes), compute_capabilities=(target,))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        artifact = TensorRtBackend.of("tensorrt-rtx").build(made.lowered, config, Path(folder))
    kernels = artifact.facts["kernels"]
    return EngineCell(
        family=family.name,
        target=target,
        planned=len(made.plan.linears),
        float_linears=tuple(f"{one.node}: {one.reason}" for one in made.plan.refusals),
        int8_gemms=kernels["int8_gemm"],
        blocks=family.blocks(WIDTH),
        fused=kernels["fused_attention"],
        lost=lost_fusions(made.lowered, made.plan, artifact),
        findings=made.findings,
        notes=tuple(journal.notes),
        sqnr_db=made.quality.sqnr_db,
        cosine_mean=made.quality.cosine_mean,
        bytes=artifact.facts["bytes"],
        seconds=time.perf_counter() - started,
    )


def cells(only: Sequence[str], targets: Sequence[str]) -> Iterator[EngineCell]:
    """Every cell, printed as it is done."""
    print(HEADER)
    for family in FAMILIES:
        if family.kind in ("vision", "encoder-decoder") or (only and family.name not in only):
            continue
        made = quantised(family)
        for target in targets:
            one = build(family, made, target)
            print(one, flush=True)
            yield one


def main() -> int:
    """Print the table, and say by the exit status whether everything planned is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="families to build")
    parser.add_argument("--targets", nargs="*", default=TARGETS, metavar="SM", help="GPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells")
    arguments = parser.parse_args()
    done = list(cells(arguments.only, arguments.targets))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")
    failed = [f"{one.family} {one.target}" for one in done if not one.passed]
    print(f"\n{len(done)} engines, {len(failed)} incomplete", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
