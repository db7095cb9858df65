"""INT8 engines of the families, built without a GPU: which planned linears are INT8 kernels.

    python benchmarks/int8_engines.py [--only NAME ...] [--targets SM80 ...] [--json FILE]

Each family is exported with random weights, calibrated on random token ids, quantised, held to
both lints, lowered to float16 and compiled for each GPU by itself. The exit status is 1 when a
lint finds something, or a planned linear or an attention is not the kernel it was meant to be.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from families.engines import CACHE_LENGTH, EngineCell, compiled, exported, main
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
from fuselage.graph.model import Graph
from fuselage.graph.tensors import TensorSpec
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.presets import CANONICAL, lowering
from fuselage.passes.qdq.linears import scale_weight, weight_of
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.policy import QuantPlan, QuantPolicy

TARGETS = ("SM80", "SM86", "SM89", "SM120")
WIDTH = Width(hidden=128, heads=4, kv_heads=2, inner=256, layers=2)
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
class Int8Cell(EngineCell):
    """INT8 of one family on one GPU.

    Attributes:
        planned: linears that are meant to be INT8.
        float_linears: products with a constant that stay float, each with its reason.
        int8_gemms: kernels of the first profile that multiply INT8.
        lost: what the audit misses.
        findings: of the Q/DQ lint; what the TensorRT lint calls an error ends the run.
        notes: what the TensorRT lint warns of.
        sqnr_db: on rows the ranges do not come from.
        cosine_mean: likewise.
    """

    planned: int
    float_linears: tuple[str, ...]
    int8_gemms: int
    lost: tuple[str, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    sqnr_db: float
    cosine_mean: float

    @property
    def passed(self) -> bool:
        """Whether everything that was planned is there, and nothing is wrong with the graph."""
        return super().passed and not self.lost and not self.findings

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
        original = exported(family, Path(folder) / "model.onnx", WIDTH)
        graph = quantizable(PassPipeline(CANONICAL).run(original))
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


def build(family: Family, made: Quantised, target: str) -> Int8Cell:
    """Compile for one GPU and audit."""
    journal = Journal(Silent())
    refuse_traps(made.lowered, "tensorrt-rtx", (target,), journal)
    artifact, seconds = compiled(made.lowered, target)
    kernels = artifact.facts["kernels"]
    return Int8Cell(
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
        seconds=seconds,
    )


def cells(only: Sequence[str], targets: Sequence[str]) -> Iterator[Int8Cell]:
    """Every cell, as it is done."""
    print(HEADER)
    for family in FAMILIES:
        if family.kind in ("vision", "encoder-decoder") or (only and family.name not in only):
            continue
        made = quantised(family)
        yield from (build(family, made, target) for target in targets)


if __name__ == "__main__":
    sys.exit(main(__doc__.splitlines()[0], TARGETS, cells))
