"""The stages of one build, in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engines import host
from ...engines.manifest import Manifest, ModelId, TargetEntry
from ...engines.strict_json import canonical_json
from ...engines.text.encoder import TextEncoder
from ..profiles.choice import plan_shapes
from ..profiles.lengths import Lengths
from ..profiles.plan import ShapePlan
from ..report import REPORT, make_report
from .canonicalise import canonicalise
from .context import Context
from .engine import BuiltEngine, build_engine, target_packages
from .examine import examine
from .export import ExportedModel, export_model
from .lower import lower
from .quantise import QuantisedModel, quantise
from .reference import ask_reference


def run_stages(context: Context) -> dict[str, Any]:
    """Fill the bundle and commit it; returns the report.

    Raises:
        FuselageError: of the stage that failed.
    """
    exported = export_model(context)
    shapes = _shapes(context, exported)
    answers = ask_reference(context, exported, shapes.everywhere)
    canonical = canonicalise(context, exported.graph)
    if context.held is not None:
        context.held.check(exported.spec, exported.tokenizer, canonical)
    quantised = quantise(context, exported, canonical)
    built = [
        build_engine(context, lower(context, target, canonical, quantised), shapes)
        for target in context.assignment.precisions
    ]
    findings = {
        item.target: examine(context, item, exported, answers, shapes.everywhere) for item in built
    }
    report = make_report(
        source=context.source,
        task=exported.spec.task,
        weight_bytes=canonical.product.facts["weight_bytes"],
        exported=canonical.product.facts["exported"],
        fusion=canonical.product.facts["fusion"],
        journal=context.journal,
        verify=context.request.verify,
        quantization=None if quantised is None else quantised.report,
        artifacts={item.target: item.artifact for item in built},
        precisions=context.assignment.precisions,
        findings=findings,
        shapes=shapes,
        comparison=context.request.comparison,
        cache=context.runner.ledger,
    )
    if context.held is not None:
        context.held.judge(report)
    _commit(context, exported, quantised, built, shapes, report)
    return report


def _shapes(context: Context, exported: ExportedModel) -> ShapePlan:
    if context.held is not None:
        return context.held.shapes

    def lengths() -> Lengths:
        from ...calibration.text.data import default_corpus

        texts = context.request.texts or default_corpus()
        return Lengths.of(texts, TextEncoder(exported.tokenizer, exported.spec))

    request = context.request
    return plan_shapes(request.shapes, request.profiles, exported.spec.max_tokens, lengths)


def _commit(
    context: Context,
    exported: ExportedModel,
    quantised: QuantisedModel | None,
    built: list[BuiltEngine],
    shapes: ShapePlan,
    report: Mapping[str, Any],
) -> None:
    verdict = report["verification"]
    manifest = Manifest(
        model=ModelId(**context.recipe["model"]),
        weights=context.source.weights,
        task=exported.spec.task,
        recipe=context.recipe,
        passes={
            item.target: tuple(record.stage for record in item.lowered.history) for item in built
        },
        targets={item.target: _entry(item, shapes) for item in built},
        verification={"passed": verdict["passed"], "targets": verdict["targets"]},
        calibration=None if quantised is None else quantised.data_digest,
    )
    with context.journal.stage("write"):
        context.writer.add(REPORT, canonical_json(report))
        context.writer.commit(manifest)


def _entry(item: BuiltEngine, shapes: ShapePlan) -> TargetEntry:
    return TargetEntry(
        precision=item.lowered.precision,
        folder=item.target,
        versions=host.package_versions(target_packages(item.target)),
        compute_capabilities=tuple(item.artifact.facts.get("compute_capabilities", ())),
        profile=dict(shapes.whole.axes),
        layout=item.lowered.context.request.layout,
    )
