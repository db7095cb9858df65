"""What a rebuild changes in the report and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...engines import host
from ...engines.base import EngineArtifact
from ...engines.choice import base_target
from ...engines.manifest import TargetEntry
from ...graph.tensors import ShapeProfile
from ...passes.presets import Precision
from ..report import environment, target_facts

if TYPE_CHECKING:
    from ..checks.proof import Verdict
    from .rebuild import NewEngine

REFERENCE = "the canonical graph, float32, ONNX Runtime"

_PACKAGES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt-rtx",)}


def entry_of(
    name: str, precision: Precision, artifact: EngineArtifact, profile: ShapeProfile
) -> TargetEntry:
    """The manifest's entry of a new engine."""
    packages = _PACKAGES.get(base_target(name), ("onnxruntime", "onnxruntime-gpu"))
    return TargetEntry(
        precision=precision,
        folder=name,
        versions=host.package_versions(packages),
        compute_capabilities=tuple(artifact.facts.get("compute_capabilities", ())),
        profile=dict(profile.axes),
    )


def amended_report(
    report: Mapping[str, Any],
    engines: Mapping[str, NewEngine],
    verdicts: Mapping[str, Verdict],
) -> dict[str, Any]:
    """The report of the build, with what is said about the new engines in place of the old.

    Latencies of the old engines go; ``rebuilt`` says on which machine and against what each new
    one was proved.
    """
    targets = {
        name: target_facts(item.artifact, _precision(item), item.lost)
        for name, item in engines.items()
    }
    stay = [item for item in report["verification"]["targets"] if item["target"] not in engines]
    judged = [*stay, *(asdict(verdict) for verdict in verdicts.values())]
    lost = [line for entry in ({**report["targets"], **targets}).values() for line in entry["lost"]]
    machine = environment()
    return {
        **report,
        "targets": {**report["targets"], **targets},
        "verification": {
            **report["verification"],
            "passed": all(item["passed"] for item in judged) and not lost,
            "targets": judged,
        },
        "latency": {k: v for k, v in report["latency"].items() if k not in engines},
        "rebuilt": {
            **report.get("rebuilt", {}),
            **{name: {"reference": REFERENCE, "environment": machine} for name in engines},
        },
    }


def _precision(item: NewEngine) -> Precision:
    from typing import cast

    return cast("Precision", item.entry.precision)
