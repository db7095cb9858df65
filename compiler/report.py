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
from .models.source import ModelSource

if TYPE_CHECKING:
    # Reading a report must not cost what making one does.
    from ..passes.presets import Precision
    from .profiles.plan import ShapePlan
    from .progress import Journal
    from .quantization.quantize import Quantized
    from .stages.examine import Finding

REPORT = "report.json"
SCHEMA = 1


def read_report(bundle: Bundle) -> dict[str, Any]:
    """The content of a bundle's ``report.json``.

    Raises:
        BundleError: when the bundle has none, or it is damaged.
    """
    path = bundle.path(REPORT)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: expected JSON, got {error}; build the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(
            f"{path}: expected a JSON object, got {type(content).__name__}; build the bundle again"
        )
    return content


def make_report(
    *,
    source: ModelSource,
    task: str,
    weight_bytes: int,
    exported: Mapping[str, Any],
    fusion: Mapping[str, Any],
    journal: Journal,
    verify: str,
    quantization: Mapping[str, Any] | None,
    artifacts: Mapping[str, EngineArtifact],
    precisions: Mapping[str, Precision],
    findings: Mapping[str, Finding],
    shapes: ShapePlan,
    comparison: Sequence[Mapping[str, Any]],
    cache: Sequence[Mapping[str, Any]],
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
            "weight_bytes": weight_bytes,
        },
        "stages": [stage_facts(record) for record in journal.records],
        "exported": dict(exported),
        "fusion": dict(fusion),
        "numbers": {"verify": verify, "not_checked": list(journal.not_checked)},
        "quantization": None if quantization is None else dict(quantization),
        "shapes": shapes.facts(),
        "comparison": [dict(result) for result in comparison],
        "targets": {
            target: target_facts(artifact, precisions[target], findings[target].lost)
            for target, artifact in artifacts.items()
        },
        "verification": {
            "passed": has_passed(findings),
            "reference": "PyTorch, float32, eager attention",
            "targets": [finding.verdict for finding in findings.values()],
        },
        "latency": {
            target: finding.latency
            for target, finding in findings.items()
            if finding.latency is not None
        },
        "cache": [dict(use) for use in cache],
        "notes": list(journal.notes),
        "environment": environment(),
    }


def has_passed(findings: Mapping[str, Finding]) -> bool:
    """True when every target passed and no engine lost a fusion or a precision."""
    return all(found.verdict["passed"] and not found.lost for found in findings.values())


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


def quantization_facts(quantized: Quantized) -> dict[str, Any]:
    """What ``report.json`` says about quantisation, without the survey of the text."""
    from .quantization.edges import quality_facts

    kept = quantized.plan.refusals
    return {
        "linears": len(quantized.plan.linears) + len(kept),
        **_formats(quantized),
        "method": quantized.table.method,
        "texts": quantized.table.texts,
        "tokens": quantized.table.tokens,
        "source": quantized.table.source,
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


def target_facts(
    artifact: EngineArtifact, precision: Precision, lost: Sequence[str]
) -> dict[str, Any]:
    """One engine as ``report.json`` holds it."""
    facts = artifact.facts
    kept = (
        "bytes",
        "nodes",
        "kernels",
        "decomposed_attention",
        "compute_capabilities",
        "activation_bytes",
        "weight_bytes",
        "gpu_memory",
        "build_seconds",
    )
    entry: dict[str, Any] = {"precision": precision}
    entry |= {key: facts[key] for key in kept if key in facts}
    return {**entry, "lost": list(lost)}


def environment() -> dict[str, Any]:
    """This machine as ``report.json`` holds it."""
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
