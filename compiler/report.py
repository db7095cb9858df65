"""``report.json``: what was built, what was refused, and whether it answers like the model.

The keys are an interface; docs/report.md lists them and a test holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..engines import host
from ..engines.base import EngineArtifact
from ..engines.bundle import Bundle
from ..errors import BundleError
from ..graph.history import StageRecord
from .checks.fusion import count_fusions
from .models.source import ModelSource

if TYPE_CHECKING:
    # Reading a report must not cost what making one does.
    from ..calibration.text.survey import Survey
    from ..graph.model import Graph
    from ..passes.presets import Precision
    from .checks.proof import Verdict
    from .profiles.plan import ShapePlan
    from .progress import Journal
    from .quantization.quantize import Quantized

REPORT = "report.json"
SCHEMA = 1


def read_report(bundle: Bundle) -> dict[str, Any]:
    """The content of a bundle's ``report.json``."""
    path = bundle.path(REPORT)
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:
        raise BundleError(f"{path}: expected JSON, got {error}; build the bundle again") from error
    return content


def make_report(
    *,
    source: ModelSource,
    task: str,
    original: Graph,
    canonical: Graph,
    journal: Journal,
    verify: str,
    quantized: Quantized | None,
    corpus: Survey | None,
    artifacts: Mapping[str, EngineArtifact],
    precisions: Mapping[str, Precision],
    verdicts: Sequence[Verdict],
    lost: Mapping[str, Sequence[str]],
    latency: Mapping[str, Any],
    shapes: ShapePlan,
) -> dict[str, Any]:
    """Assemble the report; all values are JSON."""
    return {
        "schema": SCHEMA,
        "model": {
            "id": source.id,
            "revision": source.revision,
            "digest": source.digest,
            "weights": source.weights,
            "task": task,
            "weight_bytes": canonical.weight_bytes,
        },
        "stages": [stage_facts(record) for record in journal.records],
        "fusion": {k: count.facts() for k, count in count_fusions(canonical, original).items()},
        "numbers": {"verify": verify, "not_checked": list(journal.not_checked)},
        "quantization": None if quantized is None else _quantization(quantized, corpus),
        "shapes": shapes.facts(),
        "targets": {
            target: _target(artifact, precisions[target], lost.get(target, ()))
            for target, artifact in artifacts.items()
        },
        "verification": {
            "passed": has_passed(verdicts, lost),
            "reference": "PyTorch, float32, eager attention",
            "targets": [_verdict(verdict) for verdict in verdicts],
        },
        "latency": dict(latency),
        "notes": list(journal.notes),
        "environment": _environment(),
    }


def has_passed(verdicts: Sequence[Verdict], lost: Mapping[str, Sequence[str]]) -> bool:
    """True when every target passed and no engine lost a fusion or a precision."""
    return all(verdict.passed for verdict in verdicts) and not any(lost.values())


def stage_facts(record: StageRecord) -> dict[str, Any]:
    """One stage as ``report.json`` holds it."""
    return {
        "name": record.stage,
        "seconds": round(record.seconds, 4),
        "nodes_before": record.nodes_before,
        "nodes_after": record.nodes_after,
        "rewrites": record.rewrites,
        "refusals": [asdict(refusal) for refusal in record.refusals],
        "rolled_back": record.rolled_back,
    }


def _quantization(quantized: Quantized, corpus: Survey | None) -> dict[str, Any]:
    from .quantization.edges import quality_facts

    kept = quantized.plan.refusals
    return {
        "linears": len(quantized.plan.linears) + len(kept),
        **_formats(quantized),
        "method": quantized.table.method,
        "texts": quantized.table.texts,
        "tokens": quantized.table.tokens,
        "source": quantized.table.source,
        "corpus": None if corpus is None else corpus.facts(),
        **quality_facts(quantized.quality),
        "accuracy": [] if quantized.accuracy is None else quantized.accuracy.facts(),
        "kept_float": [{"node": refusal.node, "reason": refusal.reason} for refusal in kept],
        "edges": [edge.facts() for edge in quantized.edges],
    }


def _formats(quantized: Quantized) -> dict[str, Any]:
    """How many linears have which format, and what became of the tables."""
    plan, policy = quantized.plan, quantized.policy
    count, name = len(plan.linears), policy.scheme.name
    return {
        "format": name,
        "weight_only": policy.weight_only,
        "int8": count if name == "int8" else 0,
        "fp8": count if name == "fp8" else 0,
        "tables": {
            "int8": [table.node for table in plan.tables],
            "kept_float": [
                {"node": refusal.node, "reason": refusal.reason} for refusal in plan.float_tables
            ],
        },
    }


def _target(artifact: EngineArtifact, precision: Precision, lost: Sequence[str]) -> dict[str, Any]:
    facts = artifact.facts
    kept = (
        "bytes",
        "nodes",
        "kernels",
        "decomposed_attention",
        "compute_capabilities",
        "activation_bytes",
        "weight_bytes",
        "build_seconds",
    )
    entry: dict[str, Any] = {"precision": precision}
    entry |= {key: facts[key] for key in kept if key in facts}
    return {**entry, "lost": list(lost)}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)


def _environment() -> dict[str, Any]:
    here = host.probe()
    return {
        "system": here.system,
        "python": here.python,
        "cpu": asdict(here.cpu),
        "driver": here.driver,
        "gpus": [asdict(gpu) for gpu in here.gpus],
        "load_average": here.load_average,
        "versions": dict(here.packages),
    }
