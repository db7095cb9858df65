"""The stages of one build, in order, as methods of one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..calibration.damage.budget import Budget
from ..calibration.session import GraphSession
from ..calibration.text.data import default_corpus
from ..calibration.text.survey import Survey, survey
from ..engines import host
from ..engines.base import BuildConfig, Engine, EngineArtifact, LoadOptions
from ..engines.bundle import SOURCE, BundleWriter
from ..engines.manifest import Manifest, ModelId, TargetEntry
from ..engines.strict_json import canonical_json
from ..engines.targets import backend
from ..engines.text.encoder import TextEncoder
from ..engines.text.task import TASK_FILE, TaskSpec
from ..graph.model import Graph
from ..graph.tensors import ShapeProfile
from ..passes.base import Pass
from ..passes.costs import CostTable
from ..passes.presets import CANONICAL, lowering
from .checks.audit import lost_fusions
from .checks.fusion import count_fusions
from .checks.proof import Proof, Verdict
from .checks.requirement import check_requirements, parse_requirements
from .checks.traps import refuse_traps
from .checks.verified import parse_verify, run_passes
from .checks.widen import widen_bfloat16
from .exporting.export import Exported, export
from .latency import measure_latency
from .models.source import ModelSource
from .precision import CALIBRATED, QUANTIZED, Assignment, gpus_for
from .profiles.choice import plan_shapes
from .profiles.lengths import Lengths
from .profiles.plan import ShapePlan
from .progress import Journal
from .quantization.evaluation import check_examples, examples_for
from .quantization.formats import CAVEATS, policy_of
from .quantization.quantize import Quantized, quantize
from .recipe import Recipe, Request
from .report import REPORT, make_report

TOKENIZER, CALIBRATION = "tokenizer.json", "calibration.json"


@dataclass(frozen=True)
class _Built:
    """One target: the graph it was lowered to and what its backend made of it."""

    target: str
    graph: Graph
    artifact: EngineArtifact
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Build:
    """One build in progress; every method is a stage."""

    request: Request
    source: ModelSource
    recipe: Recipe
    assignment: Assignment
    journal: Journal
    writer: BundleWriter

    def run(self) -> dict[str, Any]:
        """All stages in order; returns the report."""
        check_examples(self.request, self.source)
        exported = self._export()
        spec = exported.task_spec
        canonical = self._canonicalise(exported)
        corpus = self._survey(spec)
        quantized = self._quantize(canonical, spec)
        shapes = self._shapes(spec)
        built = [
            self._target(target, canonical, quantized, shapes)
            for target in self.assignment.precisions
        ]
        verdicts = self._prove(exported, built, shapes.everywhere)
        report = make_report(
            source=self.source,
            task=spec.task,
            original=exported.graph,
            canonical=canonical,
            journal=self.journal,
            verify=self.request.verify,
            quantized=quantized,
            corpus=corpus,
            artifacts={item.target: item.artifact for item in built},
            precisions=self.assignment.precisions,
            verdicts=verdicts,
            lost={item.target: item.lost for item in built},
            latency=self._time(built, shapes.everywhere),
            shapes=shapes,
        )
        self._commit(spec, quantized, built, shapes.whole, report)
        return report

    def _export(self) -> Exported:
        with self.journal.stage("export"):
            exported = export(self.source, self.request.task)
            self.writer.add(TOKENIZER, exported.tokenizer)
            self.writer.add(TASK_FILE, exported.task_spec.to_json())
        self.journal.records += exported.graph.history
        for record in exported.graph.history:
            for refusal in record.refusals:
                self.journal.note(f"{refusal.rule}: {refusal.reason}")
        return exported

    def _canonicalise(self, exported: Exported) -> Graph:
        with self.journal.stage("canonicalise"):
            canonical = self._run(CANONICAL, exported.graph)
            counts = count_fusions(canonical, exported.graph)
            check_requirements(
                parse_requirements(self.request.require),
                {kind: count.facts() for kind, count in counts.items()},
                f"{self.source}: nothing was written",
            )
            canonical.save(self.writer.path(SOURCE))
        self._report_rollbacks()
        return canonical

    def _run(
        self,
        passes: tuple[Pass, ...],
        graph: Graph,
        *,
        canonical: bool = False,
        unquantized: Graph | None = None,
    ) -> Graph:
        done = run_passes(
            passes,
            graph,
            verify=parse_verify(self.request.verify),
            threads=self.request.threads,
            canonical=canonical,
            unquantized=unquantized,
            on_record=self.journal.records.append,
        )
        if done.not_checked is not None and done.not_checked not in self.journal.not_checked:
            self.journal.not_checked.append(done.not_checked)
            self.journal.note(done.not_checked)
        return done.graph

    def _report_rollbacks(self) -> None:
        for record in self.journal.records:
            if record.rolled_back is not None:
                line = f"pass {record.stage} was rolled back: {record.rolled_back}"
                if line not in self.journal.notes:
                    self.journal.note(line)

    def _survey(self, spec: TaskSpec) -> Survey | None:
        """Look at the calibration text before it is run, and say what is odd about it."""
        if not self.assignment.any_of(CALIBRATED):
            return None
        texts = self.request.texts or default_corpus()
        found = survey(texts, TextEncoder(self.writer.path(TOKENIZER), spec))
        for line in found.notes():
            self.journal.note(line)
        return found

    def _quantize(self, canonical: Graph, spec: TaskSpec) -> Quantized | None:
        precision = self.assignment.any_of(QUANTIZED)
        if precision is None:
            return None
        tokenizer = self.writer.path(TOKENIZER)
        quantized = quantize(
            canonical,
            tokenizer,
            spec,
            self.request.texts,
            self.journal,
            policy=policy_of(precision, embeddings=self.request.int8_embeddings),
            budget=Budget(
                min_sqnr_db=self.request.min_sqnr,
                min_cosine=self.request.min_cosine,
                max_drop=self.request.max_drop,
            ),
            examples=examples_for(self.request.evaluation, self.request.max_drop, spec),
            threads=self.request.threads,
        )
        if precision in CALIBRATED:
            quantized.table.save(self.writer.path(CALIBRATION))
        return quantized

    def _shapes(self, spec: TaskSpec) -> ShapePlan:
        def lengths() -> Lengths:
            texts = self.request.texts or default_corpus()
            return Lengths.of(texts, TextEncoder(self.writer.path(TOKENIZER), spec))

        return plan_shapes(self.request.shapes, self.request.profiles, spec.max_tokens, lengths)

    def _target(
        self, target: str, canonical: Graph, quantized: Quantized | None, shapes: ShapePlan
    ) -> _Built:
        precision = self.assignment.precisions[target]
        graph, plan, policy = canonical, None, None
        if precision in QUANTIZED:
            assert quantized is not None
            graph, plan, policy = quantized.graph, quantized.plan, quantized.policy
        if caveat := CAVEATS.get((target, precision)):
            self.journal.note(f"{target} {precision}: {caveat}")
        with self.journal.stage(f"build {target} {precision}"):
            costs = self.request.costs
            passes = lowering(
                target,
                precision,
                uint8_activations=has_vnni(),
                costs=None if costs is None else CostTable.load(costs),
            )
            unquantized = None if plan is None else canonical
            graph = self._run(passes, graph, canonical=True, unquantized=unquantized)
            config = BuildConfig(
                profile=shapes.whole,
                profiles=shapes.profiles,
                buckets=shapes.buckets,
                compute_capabilities=gpus_for(target, precision, self.request.compute_capabilities),
                threads=self.request.threads,
            )
            refuse_traps(graph, target, config.compute_capabilities, self.journal)
            artifact = backend(target).build(graph, config, self.writer.folder(target))
        self._report_rollbacks()
        decomposed = artifact.facts.get("decomposed_attention", ())
        if decomposed:
            reason = decomposed[0]["reason"]
            self.journal.note(f"{target}: {len(decomposed)} attentions are not fused: {reason}")
        nodes = len(graph.model.graph)
        self.journal.record(f"build {target}", artifact.facts["build_seconds"], nodes, nodes)
        return _Built(target, graph, artifact, lost_fusions(graph, plan, artifact, policy))

    def _prove(
        self, exported: Exported, built: list[_Built], profile: ShapeProfile
    ) -> list[Verdict]:
        with self.journal.stage("prove"):
            proof = Proof(
                exported.reference,
                self.writer.path(TOKENIZER),
                exported.task_spec,
                profile,
                exported.graph.outputs,
            )
            return [self._examine(proof, item) for item in built]

    def _examine(self, proof: Proof, item: _Built) -> Verdict:
        """Run the engine where it runs here, else the very graph it was built from."""
        target, precision = item.target, self.assignment.precisions[item.target]
        blocker = backend(target).run_blocker()
        if blocker is None:
            with self._load(item) as engine:
                return proof.examine(target, precision, engine, "engine")
        graph, subject = item.graph, "its graph was run with ONNX Runtime on the CPU"
        if precision == "bf16":
            graph, subject = widen_bfloat16(graph), f"{subject} in float32 with bfloat16 weights"
        self.journal.note(
            f"{target}: the engine was not run ({blocker}); its kernels were audited and {subject} "
            "instead"
        )
        with GraphSession(graph, threads=self.request.threads) as session:
            return proof.examine(target, precision, session, subject)

    def _time(self, built: list[_Built], profile: ShapeProfile) -> dict[str, Any]:
        latency = {}
        with self.journal.stage("time"):
            for item in built:
                if backend(item.target).run_blocker() is None:
                    with self._load(item) as engine:
                        latency[item.target] = measure_latency(engine, profile)
        return latency

    def _load(self, item: _Built) -> Engine:
        options = LoadOptions(threads=self.request.threads)
        return backend(item.target).load(self.writer.folder(item.target), options)

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
            self.writer.commit(self._manifest(spec, quantized, built, profile, report))

    def _manifest(
        self,
        spec: TaskSpec,
        quantized: Quantized | None,
        built: list[_Built],
        profile: ShapeProfile,
        report: Mapping[str, Any],
    ) -> Manifest:
        verdict = report["verification"]
        return Manifest(
            model=ModelId(**self.recipe["model"]),
            weights=self.source.weights,
            task=spec.task,
            recipe=self.recipe,
            passes={
                item.target: tuple(record.stage for record in item.graph.history) for item in built
            },
            targets={item.target: self._entry(item, profile) for item in built},
            verification={"passed": verdict["passed"], "targets": verdict["targets"]},
            calibration=None if quantized is None else quantized.table.data_digest or None,
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
