"""Build: the stages of a bundle as one page. Data flows down, nothing flows back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engines import host
from ..engines.base import BuildConfig, EngineArtifact, LoadOptions
from ..engines.bundle import Bundle, BundleWriter
from ..engines.manifest import Manifest, ModelId, TargetEntry
from ..engines.strict_json import canonical_json
from ..engines.targets import backend, default_targets
from ..errors import BuildError, VerificationError
from ..graph.tensors import ShapeProfile
from .packages import EXPORTING, require
from .precision import Assignment, assign
from .progress import Journal, Listener, Silent
from .recipe import Recipe, Request, recipe_of, reusable
from .source import ModelSource, resolve_model

if TYPE_CHECKING:
    from ..engines.text.task import TaskSpec
    from ..graph.model import Graph
    from .export import Exported
    from .proof import Proof, Verdict
    from .quantize import Quantized

SOURCE, TOKENIZER, TASK, REPORT = "graph/model.onnx", "tokenizer.json", "task.json", "report.json"
_DEFAULT_BATCH = (1, 8, 64)
_DEFAULT_LENGTH = 128


@dataclass(frozen=True)
class Outcome:
    """What a build came to.

    Attributes:
        bundle: open, complete and verified.
        reused: True when an equal bundle was there and nothing was built.
        reasons: why it was built although a bundle was there; empty otherwise.
        report: content of ``report.json``.
    """

    bundle: Bundle
    reused: bool
    reasons: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Built:
    """One target: the graph it was lowered to and what its backend made of it."""

    target: str
    graph: Graph
    artifact: EngineArtifact
    lost: tuple[str, ...]


def run_build(
    request: Request, listener: Listener | None = None, *, force: bool = False
) -> Outcome:
    """Build a bundle, or return the one at ``request.out`` when the same recipe made it.

    Args:
        request: what to build.
        listener: told about progress and decisions.
        force: build even when an equal bundle is there.

    Raises:
        FuselageError: of the stage that failed; the old bundle, or none, is left.
        VerificationError: when an engine does not answer like the model. The bundle is written,
            with the failed verdict in its manifest and report.
    """
    journal = Journal(listener or Silent())
    with journal.stage("resolve"):
        source = resolve_model(request.model, revision=request.revision, weights=request.weights)
        targets = _targets(request.targets)
        assignment = assign(targets, request.precision)
        recipe = recipe_of(request, source, targets)
        bundle, reasons = (None, ("asked for",)) if force else reusable(request.out, recipe)
    if bundle is not None:
        return Outcome(bundle, reused=True, report=read_report(bundle))
    require(EXPORTING, "building a bundle")
    for line in assignment.notes:
        journal.note(line)
    with BundleWriter(request.out) as writer:
        report = _Build(request, source, recipe, assignment, journal, writer).run()
    if not report["verification"]["passed"]:
        raise VerificationError(_verdict_text(request.out, report))
    return Outcome(Bundle.open(request.out), reused=False, reasons=reasons, report=report)


def read_report(bundle: Bundle) -> dict[str, Any]:
    """The content of a bundle's ``report.json``."""
    import json

    content: dict[str, Any] = json.loads(bundle.path(REPORT).read_bytes())
    return content


def _targets(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The targets to build; each one asked for must build on this machine."""
    targets = tuple(dict.fromkeys(asked)) or default_targets()
    for target in targets:
        blocker = backend(target).build_blocker()
        if blocker is not None:
            raise BuildError(f"target {target!r} cannot be built here: {blocker}")
    return targets


@dataclass(frozen=True)
class _Build:
    """One build in progress; every method is a stage."""

    request: Request
    source: ModelSource
    recipe: Recipe
    assignment: Assignment
    journal: Journal
    writer: BundleWriter

    def run(self) -> dict[str, Any]:
        """All stages in order; returns the report."""
        from .report import make_report

        exported = self._export()
        spec = exported.task_spec
        canonical = self._canonicalise(exported)
        quantized = self._quantize(canonical, spec)
        profile = self._profile(spec)
        built = [
            self._target(target, canonical, quantized, profile)
            for target in self.assignment.precisions
        ]
        verdicts = self._prove(exported, built, profile)
        report = make_report(
            source=self.source,
            task=spec.task,
            canonical=canonical,
            records=self.journal.records,
            notes=self.journal.notes,
            quantized=quantized,
            artifacts={item.target: item.artifact for item in built},
            precisions=self.assignment.precisions,
            verdicts=verdicts,
            lost={item.target: item.lost for item in built},
        )
        self._commit(spec, quantized, built, profile, report)
        return report

    def _export(self) -> Exported:
        from .export import export

        with self.journal.stage("export"):
            exported = export(self.source, self.request.task)
            self.writer.add(TOKENIZER, exported.tokenizer)
            self.writer.add(TASK, exported.task_spec.to_json())
        self.journal.records += exported.graph.history
        for record in exported.graph.history:
            for refusal in record.refusals:
                self.journal.note(f"{refusal.rule}: {refusal.reason}")
        return exported

    def _canonicalise(self, exported: Exported) -> Graph:
        from ..passes.pipeline import PassPipeline
        from ..passes.presets import CANONICAL
        from .check_pass import NumberCheck

        with self.journal.stage("canonicalise"):
            check = NumberCheck(exported.graph, threads=self.request.threads)
            pipeline = PassPipeline(CANONICAL, check, self.journal.records.append)
            canonical = pipeline.run(exported.graph)
            canonical.save(self.writer.path(SOURCE))
        self._report_rollbacks()
        return canonical

    def _report_rollbacks(self) -> None:
        for record in self.journal.records:
            if record.rolled_back is not None:
                line = f"pass {record.stage} was rolled back: {record.rolled_back}"
                if line not in self.journal.notes:
                    self.journal.note(line)

    def _quantize(self, canonical: Graph, spec: TaskSpec) -> Quantized | None:
        if "int8" not in self.assignment.precisions.values():
            return None
        from .quantize import quantize

        tokenizer = self.writer.path(TOKENIZER)
        quantized = quantize(
            canonical,
            tokenizer,
            spec,
            self.request.texts,
            self.journal,
            threads=self.request.threads,
        )
        quantized.table.save(self.writer.path("calibration.json"))
        return quantized

    def _profile(self, spec: TaskSpec) -> ShapeProfile:
        if self.request.shapes is not None:
            return ShapeProfile.parse(self.request.shapes)
        longest = spec.max_tokens
        return ShapeProfile(
            {"batch": _DEFAULT_BATCH, "sequence": (1, min(_DEFAULT_LENGTH, longest), longest)}
        )

    def _target(
        self, target: str, canonical: Graph, quantized: Quantized | None, profile: ShapeProfile
    ) -> _Built:
        from ..passes.pipeline import PassPipeline
        from ..passes.presets import lowering
        from .audit import lost_fusions
        from .check_pass import NumberCheck

        precision = self.assignment.precisions[target]
        plan = None
        graph = canonical
        if precision == "int8":
            assert quantized is not None
            graph, plan = quantized.graph, quantized.plan
        with self.journal.stage(f"build {target} {precision}"):
            passes = lowering(target, precision, uint8_activations=has_vnni())
            check = NumberCheck(graph, None if plan is None else canonical, self.request.threads)
            graph = PassPipeline(passes, check, self.journal.records.append).run(graph)
            config = BuildConfig(
                profile=profile,
                compute_capabilities=self.request.compute_capabilities,
                threads=self.request.threads,
            )
            artifact = backend(target).build(graph, config, self.writer.folder(target))
        self._report_rollbacks()
        nodes = len(graph.model.graph)
        self.journal.record(f"build {target}", artifact.facts["build_seconds"], nodes, nodes)
        return _Built(target, graph, artifact, lost_fusions(graph, plan, artifact))

    def _prove(
        self, exported: Exported, built: list[_Built], profile: ShapeProfile
    ) -> list[Verdict]:
        from .proof import Proof

        with self.journal.stage("prove"):
            longest = profile.axes.get("sequence", (1, 1, exported.task_spec.max_tokens))[2]
            proof = Proof(
                exported.reference,
                self.writer.path(TOKENIZER),
                exported.task_spec,
                longest,
                exported.graph.outputs,
            )
            return [self._examine(proof, item) for item in built]

    def _examine(self, proof: Proof, item: _Built) -> Verdict:
        """Run the engine where it runs here, else the very graph it was built from."""
        from ..calibration.session import GraphSession
        from .proof import Verdict

        precision = self.assignment.precisions[item.target]
        blocker = backend(item.target).run_blocker()
        if blocker is None:
            folder = self.writer.folder(item.target)
            options = LoadOptions(threads=self.request.threads)
            with backend(item.target).load(folder, options) as engine:
                return proof.examine(item.target, precision, engine, "engine")
        if precision == "bf16":
            reason = f"{blocker}; no CPU kernels for bfloat16 to check its graph with either"
            return Verdict(
                target=item.target, precision=precision, subject="none", passed=None, reason=reason
            )
        self.journal.note(
            f"{item.target}: the engine was not run ({blocker}); its kernels were audited and its "
            "graph was run with ONNX Runtime instead"
        )
        with GraphSession(item.graph, threads=self.request.threads) as session:
            return proof.examine(
                item.target, precision, session, "its graph, run with ONNX Runtime on the CPU"
            )

    def _commit(
        self,
        spec: TaskSpec,
        quantized: Quantized | None,
        built: list[_Built],
        profile: ShapeProfile,
        report: dict[str, Any],
    ) -> None:
        with self.journal.stage("write"):
            self.writer.add(REPORT, canonical_json(report))
            entries = {item.target: self._entry(item, profile) for item in built}
            self.writer.commit(
                Manifest(
                    model=ModelId(**self.recipe["model"]),
                    weights=self.source.weights,
                    task=spec.task,
                    recipe=self.recipe,
                    passes={
                        item.target: tuple(record.stage for record in item.graph.history)
                        for item in built
                    },
                    targets=entries,
                    verification={
                        "passed": report["verification"]["passed"],
                        "targets": report["verification"]["targets"],
                    },
                    calibration=None if quantized is None else quantized.table.data_digest,
                )
            )

    def _entry(self, item: _Built, profile: ShapeProfile) -> TargetEntry:
        return TargetEntry(
            precision=self.assignment.precisions[item.target],
            folder=item.target,
            versions=host.package_versions(_packages(item.target)),
            compute_capabilities=tuple(item.artifact.facts.get("compute_capabilities", ())),
            profile=dict(profile.axes),
        )


def _packages(target: str) -> tuple[str, ...]:
    if target in ("tensorrt", "tensorrt-rtx"):
        return (target,)
    return ("onnxruntime", "onnxruntime-gpu")


def has_vnni() -> bool:
    """Whether this CPU multiplies uint8 by int8 without saturating in between."""
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(host.cpu().flags)


def _verdict_text(out: Path, report: Mapping[str, Any]) -> str:
    verdicts = report["verification"]["targets"]
    lines = [f"{v['target']}: {v['reason']}" for v in verdicts if v["passed"] is False]
    for target, entry in report["targets"].items():
        lines += [f"{target}: {line}" for line in entry["lost"]]
    return (
        f"{out}: the bundle was written, but it does not answer like the model: "
        f"{'; '.join(lines)}; see {out / REPORT}, or ask for another --precision"
    )
