"""What each engine runs: kernels of TensorRT, operators of ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .. import numerals
from ..bundle_facts import BundleFacts
from ..reader import Facts
from ..tables import Table, columns

_LISTED = 600
"""Kernels in a table; more are counted."""


@dataclass(frozen=True, kw_only=True)
class EngineKernels:
    """One engine: a sentence, a short table, and the whole list where there is one."""

    target: str
    summary: str
    kinds: Table
    every: Table | None
    left_out: int


def make_kernels(bundle: BundleFacts) -> tuple[EngineKernels, ...]:
    """List what the engines run."""
    made = []
    for target, entry in bundle.report.named("targets"):
        engine = bundle.engines.get(target, Facts({}, target))
        kernels = engine.parts("kernel_list")
        if kernels:
            made.append(_tensorrt(target, entry, kernels))
        elif "nodes" in entry:
            made.append(_operators(target, entry))
    return tuple(made)


def _tensorrt(target: str, entry: Facts, kernels: Sequence[Facts]) -> EngineKernels:
    facts = entry.part("kernels")
    kinds = Counter((k.text("kind") or "?", k.text("dtypes") or "") for k in kernels)
    rows = [
        [
            numerals.count(kernel.count("profile")),
            kernel.text("kind") or "?",
            kernel.text("dtypes") or "",
            kernel.text("name") or "?",
            ", ".join(kernel.texts("nodes")),
        ]
        for kernel in kernels[:_LISTED]
    ]
    said = [
        f"{numerals.count(facts.count('total') or len(kernels))} kernels",
        f"{numerals.count(facts.count('gemm'))} of them matrix products",
    ]
    if facts.count("int8_gemm"):
        said.append(f"{numerals.count(facts.count('int8_gemm'))} on int8 operands")
    if facts.count("fused_attention"):
        said.append(f"{numerals.count(facts.count('fused_attention'))} fused attentions")
    return EngineKernels(
        target=target,
        summary=f"{', '.join(said)}; as the builder lists them, not measured.",
        kinds=Table(
            caption=f"Kernels of {target} by kind and types of operands",
            columns=columns("kind|operands → result|#kernels"),
            rows=[[kind, types, numerals.count(n)] for (kind, types), n in kinds.most_common()],
        ),
        every=Table(
            caption=f"Every kernel of {target}, in order",
            columns=columns("#profile|kind|operands → result|kernel|nodes of the graph"),
            rows=rows,
            sortable=True,
        ),
        left_out=max(0, len(kernels) - _LISTED),
    )


def _operators(target: str, entry: Facts) -> EngineKernels:
    nodes = entry.part("nodes")
    counts = {name: nodes.count(name) or 0 for name in nodes.content}
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    most = [f"{numerals.count(number)} {name.rpartition(':')[2]}" for name, number in ordered[:5]]
    return EngineKernels(
        target=target,
        summary=f"{numerals.count(sum(counts.values()))} nodes of {len(counts)} operators, after "
        f"ONNX Runtime's own optimisation; most are {', '.join(most)}.",
        kinds=Table(
            caption=f"Operators of {target}",
            columns=columns("operator|#nodes"),
            rows=[[name, numerals.count(number)] for name, number in ordered],
            sortable=True,
        ),
        every=None,
        left_out=0,
    )
