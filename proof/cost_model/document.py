"""A cost model as JSON; docs/cost_model.md lists the keys, which are an interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...compiler.precisions.cost import RATES, Workload, modelled_ms
from ...compiler.report import environment
from ...errors import GraphError
from .examine import CostModel
from .fitting import Fit
from .judging import Verdict
from .operators import OPERATORS
from .polynomial import Polynomial
from .roofline import Bottleneck
from .stages import StageCost

SCHEMA, KIND = 1, "cost-model"


def document(model: CostModel, stages: Sequence[StageCost] = ()) -> dict[str, Any]:
    """All of a cost model; every value is JSON, unknown ones are null."""
    cost, sizes = model.cost, model.sizes
    observed, verdict = model.observed, model.verdict
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "environment": environment(),
        "subject": model.subject.name,
        "target": model.subject.target,
        "precision": model.subject.precision,
        "shape": {"text": str(model.shape), "sizes": dict(sizes)},
        "totals": {
            "nodes": len(cost.nodes),
            "flops": _costed(cost.flops, sizes),
            "bytes": _costed(cost.moved_bytes, sizes),
            "floor_ms": _ms(sum(floor.seconds for floor in model.floors)),
            "predicted_ms": None if model.fitted is None else _ms(model.fitted.whole(cost, sizes)),
            "measured_ms": None if observed is None else _ms(observed.whole),
            "kernels_ms": None
            if observed is None
            else _ms(sum(time for time in observed.nodes if time is not None)),
        },
        "peaks": {
            "source": model.peaks.source,
            "flops": model.peaks.flops,
            "integer_flops": model.peaks.integer_flops,
            "copies": [{"bytes": size, "rate": rate} for size, rate in model.peaks.copies],
        },
        "fit": None if model.fitted is None else _fit_facts(model.fitted),
        "errors": None if verdict is None else verdict_facts(verdict),
        "classes": [_class_facts(row) for row in model.ranked],
        "nodes": _nodes(model),
        "kernels": kernels_facts(model),
        "absent": list(model.absent),
        "formulas": {
            op: OPERATORS[op].text
            for op in dict.fromkeys(node.op for node in cost.nodes)
            if op in OPERATORS
        },
        "unknown": sorted({node.op for node in cost.problems}),
        "passes": stages_facts(stages, sizes),
        "notes": list(model.notes),
    }


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """How far a fit is off, as JSON."""
    return {
        "shape": verdict.shape,
        "predicted_ms": _ms(verdict.predicted),
        "measured_ms": _ms(verdict.measured),
        "total": round(verdict.error, 5),
        "kernels": round(verdict.kernels, 5),
        "node_median": round(verdict.node_median, 5),
        "spearman": None if verdict.spearman is None else round(verdict.spearman, 5),
    }


def stages_facts(stages: Sequence[StageCost], sizes: Any) -> list[dict[str, Any]]:
    """What each pass did, as JSON."""
    return [
        {
            "stage": stage.stage,
            "nodes": stage.nodes,
            "flops": _costed_or_none(stage.flops, sizes),
            "bytes": _costed_or_none(stage.moved, sizes),
            "rewrites": stage.rewrites,
            "removed": None if stage.removed is None else dict(stage.removed),
            "refusals": stage.refusals,
            "rolled_back": stage.rolled_back,
            "uncounted": list(stage.uncounted),
        }
        for stage in stages
    ]


def _nodes(model: CostModel) -> list[dict[str, Any]]:
    predicted = model.predicted
    measured = [None] * len(predicted) if model.observed is None else model.observed.nodes
    return [
        {
            "name": node.name,
            "op": node.op,
            "class": node.kind,
            "layer": node.layer or None,
            "weight": list(node.weight) or None,
            "flops": _costed(node.flops, model.sizes),
            "weight_bytes": _costed(node.weight_bytes, model.sizes),
            "read_bytes": _costed(node.read_bytes, model.sizes),
            "written_bytes": _costed(node.written_bytes, model.sizes),
            "predicted_ms": _ms(predicted[index]),
            "measured_ms": _ms(measured[index]),
            "floor_ms": _ms(model.floors[index].seconds),
            "bound": model.floors[index].bound,
            "kernel": _kernel_of(model, index),
            "from": [] if model.subject.kernels else list(model.joined[index]),
            "problem": node.problem,
        }
        for index, node in enumerate(model.cost.nodes)
    ]


def _kernel_of(model: CostModel, index: int) -> str | None:
    """The kernels of a plan that compute a node; ONNX Runtime has one for each of its nodes."""
    if model.subject.kernels:
        return ", ".join(model.joined[index]) or None
    return model.cost.nodes[index].op


def kernels_facts(model: CostModel) -> list[dict[str, Any]]:
    """Kernels of a plan with the time that the roofline of its GPU gives each; [] for others."""
    subject = model.subject
    gpu = RATES.get(subject.capability)
    if not subject.kernels or gpu is None:
        return []
    work = Workload.of([subject.graph])
    batch, sequence = model.shape.batch, model.shape.sequence
    return [
        {
            "name": kernel["name"],
            "kind": kernel["kind"],
            "dtypes": kernel["dtypes"],
            "nodes": list(kernel["nodes"]),
            "modelled_ms": round(modelled_ms([kernel], work, gpu, batch, sequence), 6),
        }
        for kernel in subject.kernels
        if kernel["profile"] == 0
    ]


def _class_facts(row: Bottleneck) -> dict[str, Any]:
    return {
        "class": row.name,
        "nodes": row.nodes,
        "flops": row.flops,
        "bytes": row.moved,
        "floor_ms": _ms(row.floor),
        "ms": _ms(row.seconds),
        "share": round(row.share, 5),
        "achieved": None if row.achieved is None else round(row.achieved, 5),
        "bound": row.bound,
    }


def _fit_facts(fitted: Fit) -> dict[str, Any]:
    return {
        "shapes": list(fitted.shapes),
        "between_us": round(fitted.between * 1e6, 4),
        "classes": [
            {"class": ", ".join(name), "seconds": dict(zip(cost.terms, cost.seconds, strict=True))}
            for name, cost in fitted.classes.items()
        ],
    }


def _costed(polynomial: Polynomial, sizes: Any) -> dict[str, Any]:
    value = polynomial.at(sizes)
    return {
        "text": str(polynomial),
        "value": int(value) if value.denominator == 1 else float(value),
    }


def _costed_or_none(polynomial: Polynomial | None, sizes: Any) -> dict[str, Any] | None:
    """None where the graph has sizes that its inputs do not give, as exporters leave them."""
    if polynomial is None or not _is_known(polynomial, sizes):
        return None
    return _costed(polynomial, sizes)


def _is_known(polynomial: Polynomial, sizes: Any) -> bool:
    try:
        polynomial.at(sizes)
    except GraphError:
        return False
    return True


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else round(seconds * 1e3, 6)
