"""Build engines for this machine from the canonical graph in a bundle, and prove them anew."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...calibration.session import GraphSession
from ...engines import host
from ...engines.base import BuildConfig, EngineArtifact, LoadOptions
from ...engines.bundle import SOURCE, Bundle, BundleWriter
from ...engines.choice import base_target, preferred, variant
from ...engines.manifest import PACKED, TargetEntry
from ...engines.strict_json import canonical_json
from ...engines.targets import TARGETS, backend
from ...engines.text.task import TASK_FILE, TaskSpec
from ...errors import BuildError, BundleError, VerificationError
from ...graph.model import Graph
from ...passes.presets import Precision, lowering
from ..cache.code import code_digest
from ..cache.store import Store
from ..cache.timings import StoredTimings
from ..checks.audit import lost_fusions
from ..checks.proof import Proof, Verdict
from ..checks.traps import refuse_traps
from ..checks.verified import run_passes
from ..checks.widen import widen_bfloat16
from ..precision import assign
from ..progress import Journal, Listener, Silent
from ..report import REPORT
from .amend import amended_report, entry_of
from .form import Form, canonical_graph, form_of
from .past import past_report
from .shapes import stated_shapes

_PLANNED = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What to rebuild.

    Attributes:
        bundle: folder of the bundle.
        targets: to build; empty for all of the bundle that build on this machine.
        out: folder of the new bundle; None replaces the bundle itself.
        beside: keep the engines there are: the new one is ``tensorrt@SM89``, by this machine's GPU.
        threads: CPU threads; 0 for all physical cores.
    """

    bundle: Path
    targets: tuple[str, ...] = ()
    out: Path | None = None
    beside: bool = False
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """What came of it.

    Attributes:
        bundle: open and complete.
        verdicts: of the new engines, by their names in the bundle.
        kept: engines that stayed as they were, and why.
    """

    bundle: Bundle
    verdicts: Mapping[str, Verdict]
    kept: Mapping[str, str] = field(default_factory=dict)


def rebuild(wish: Wish, listener: Listener | None = None) -> Rebuilt:
    """Build engines for this machine from a bundle, into it or into a new one.

    Nothing but the bundle is read. Its other engines, tokenizer, graph and ranges stay byte for
    byte; each new engine has to answer like the canonical graph.

    Raises:
        BuildError: when a target cannot be built here, or the bundle lacks what it needs.
        BundleError: when the bundle is damaged, or changed meanwhile.
        VerificationError: when an engine does not answer like the graph; nothing is changed then.
    """
    journal = Journal(listener or Silent())
    bundle = Bundle.open(wish.bundle, full=True)
    if bundle.manifest.recipe.get("layout") == PACKED:
        raise BuildError(
            f"{bundle.root}: engines of packed rows are not rebuilt from a bundle; build it again "
            "from its model with --layout packed"
        )
    names, kept = _names(bundle, wish)
    canonical, report = canonical_graph(bundle), past_report(bundle)
    with BundleWriter(wish.out or wish.bundle) as writer:
        _copy(bundle, writer, leave_out=names)
        work = _Work(wish, bundle, canonical, report, journal, writer)
        engines = {name: work.build(name) for name in names}
        verdicts = work.prove(engines)
        _refuse_change(bundle, wish)
        _commit(bundle, report, engines, verdicts, writer)
    return Rebuilt(bundle=Bundle.open(wish.out or wish.bundle), verdicts=verdicts, kept=kept)


@dataclass(frozen=True, kw_only=True)
class NewEngine:
    """One engine that was built.

    Attributes:
        entry: of the manifest.
        artifact: what its backend says.
        graph: it was lowered to.
        lost: what its kernels lack.
    """

    entry: TargetEntry
    artifact: EngineArtifact
    graph: Graph
    lost: tuple[str, ...]


def _names(bundle: Bundle, wish: Wish) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the engines to build, and of those that stay because they do not build here."""
    kept = {}
    names = []
    asked = tuple(dict.fromkeys(map(base_target, wish.targets)))
    for target in asked or dict.fromkeys(map(base_target, bundle.targets)):
        if target not in TARGETS:
            raise BuildError(f"target {target!r}: expected one of {', '.join(TARGETS)}")
        blocker = backend(target).build_blocker()
        if blocker is None:
            names.append(_variant(target) if wish.beside and target in _PLANNED else target)
        elif asked:
            raise BuildError(f"target {target!r} cannot be built here: {blocker}")
        else:
            kept[target] = blocker
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept.items())
        raise BuildError(f"{bundle.root}: none of its targets builds here: {reasons}")
    return tuple(names), kept


def _variant(target: str) -> str:
    gpus = host.gpus()
    if not gpus:
        raise BuildError(
            f"target {target!r}: an engine beside others is named by the GPU of this machine, and "
            "none answers; leave --beside out"
        )
    return variant(target, gpus[0].compute_capability)


def _copy(bundle: Bundle, writer: BundleWriter, leave_out: tuple[str, ...]) -> None:
    """All that stays: every file but the engines that are built anew, and the report."""
    held = bundle.manifest.targets
    folders = {held[name].folder for name in leave_out if name in held}
    for name in bundle.manifest.files:
        if name.partition("/")[0] not in folders and name != REPORT:
            shutil.copyfile(bundle.root / name, writer.path(name))


@dataclass(frozen=True)
class _Work:
    """One rebuild in progress."""

    wish: Wish
    bundle: Bundle
    canonical: Graph
    report: Mapping[str, Any]
    journal: Journal
    writer: BundleWriter

    def build(self, name: str) -> NewEngine:
        """Lower the graph, build and audit one engine."""
        target, precision = base_target(name), self._precision(name)
        form = form_of(self.bundle, self.canonical, precision, self.report)
        with self.journal.stage(f"build {name} {precision}"):
            graph = self._lowered(target, precision, form)
            config = self._config(name)
            refuse_traps(graph, target, config.compute_capabilities, self.journal)
            artifact = backend(target).build(graph, config, self.writer.folder(name))
        return NewEngine(
            entry=entry_of(name, precision, artifact, config.profile),
            artifact=artifact,
            graph=graph,
            lost=lost_fusions(graph, form.plan, artifact, form.policy),
        )

    def prove(self, engines: Mapping[str, NewEngine]) -> dict[str, Verdict]:
        """Hold each engine to the canonical graph.

        Raises:
            VerificationError: naming each that answers otherwise, or lacks kernels.
        """
        with self.journal.stage("prove"), GraphSession(self.canonical) as reference:
            proof = Proof.of(
                reference,
                self.bundle.path("tokenizer.json"),
                TaskSpec.load(self.bundle.path(TASK_FILE)),
                stated_shapes(self.bundle, self.report).everywhere,
                self.canonical.outputs,
            )
            verdicts = {name: self._examine(proof, name, item) for name, item in engines.items()}
        wrong = [f"{n}: {v.reason}" for n, v in verdicts.items() if not v.passed]
        wrong += [f"{n}: {line}" for n, item in engines.items() for line in item.lost]
        if wrong:
            raise VerificationError(
                f"{self.bundle.root}: the bundle was not changed, because an engine that was built "
                f"is not what its graph asks for: {'; '.join(wrong)}; ask for another target"
            )
        return verdicts

    def _examine(self, proof: Proof, name: str, item: NewEngine) -> Verdict:
        target, precision = base_target(name), self._precision(name)
        blocker = backend(target).run_blocker()
        if blocker is None:
            source = self.bundle.root / SOURCE if target in _PLANNED else None
            options = LoadOptions(threads=self.wish.threads, source=source)
            with backend(target).load(self.writer.folder(name), options) as engine:
                return replace(proof.examine(target, precision, engine, "engine"), target=name)
        graph, subject = item.graph, "its graph was run with ONNX Runtime on the CPU"
        if precision == "bf16":
            graph, subject = widen_bfloat16(graph), f"{subject} in float32 with bfloat16 weights"
        self.journal.note(f"{name}: the engine was not run ({blocker}); {subject} instead")
        with GraphSession(graph, threads=self.wish.threads) as session:
            return replace(proof.examine(target, precision, session, subject), target=name)

    def _lowered(self, target: str, precision: Precision, form: Form) -> Graph:
        if self.bundle.manifest.recipe.get("costs") and target == "ort-cpu":
            self.journal.note(
                f"{target}: the bundle was built with a table of costs that it does not hold; the "
                "one that ships was taken"
            )
        passes = lowering(target, precision, uint8_activations=host.has_vnni())
        done = run_passes(
            passes,
            form.graph,
            threads=self.wish.threads,
            canonical=True,
            unquantized=None if form.plan is None else self.canonical,
            on_record=self.journal.records.append,
        )
        if done.not_checked is not None:
            self.journal.note(done.not_checked)
        return done.graph

    def _precision(self, name: str) -> Precision:
        """The precision of the engine it replaces, else what a build would give the target."""
        target = base_target(name)
        held = self.bundle.manifest.targets
        old = next(
            (held[n] for n in (name, target, *preferred(held)) if _same(n, name, held)), None
        )
        asked = old.precision if old else str(self.bundle.manifest.recipe.get("precision", "auto"))
        return assign((target,), asked).precisions[target]

    def _config(self, name: str) -> BuildConfig:
        shapes = stated_shapes(self.bundle, self.report)
        recipe = self.bundle.manifest.recipe
        is_stripped = bool(recipe.get("strip_plan", False))
        is_timed = base_target(name) == "tensorrt"
        store = Store.default(self.journal.note) if is_timed else None
        timings = StoredTimings.of(store, base_target(name))
        return BuildConfig(
            profile=shapes.whole,
            profiles=shapes.profiles,
            buckets=shapes.buckets,
            compute_capabilities=self._gpus(name),
            threads=self.wish.threads,
            refittable=bool(recipe.get("refittable", False)),
            stripped=is_stripped,
            weight_streaming=bool(recipe.get("weight_streaming", False)),
            source=self.canonical if is_stripped else None,
            timings=timings,
        )

    def _gpus(self, name: str) -> tuple[str, ...]:
        """Of an ahead-of-time plan: those it had, and the GPUs of this machine."""
        target = base_target(name)
        if target != "tensorrt-rtx":
            return ()
        here = tuple(gpu.compute_capability for gpu in host.gpus())
        if name != target:
            return tuple(dict.fromkeys(here))
        old = self.bundle.manifest.targets.get(name)
        had = old.compute_capabilities if old else ()
        return tuple(dict.fromkeys((*had, *here))) if had else ()


def _refuse_change(bundle: Bundle, wish: Wish) -> None:
    """What another process wrote meanwhile must not be replaced by what was read before."""
    if wish.out is None and Bundle.open(bundle.root).manifest != bundle.manifest:
        raise BundleError(
            f"{bundle.root}: the bundle was changed by another process while its engines were "
            "rebuilt; run it again"
        )


def _same(candidate: str, name: str, held: Mapping[str, TargetEntry]) -> bool:
    return candidate in held and base_target(candidate) == base_target(name)


def _commit(
    bundle: Bundle,
    report: Mapping[str, Any],
    engines: Mapping[str, NewEngine],
    verdicts: Mapping[str, Verdict],
    writer: BundleWriter,
) -> None:
    """Write report and manifest: what was built by this machine says so."""
    manifest = bundle.manifest
    new = amended_report(report, engines, verdicts)
    writer.add(REPORT, canonical_json(new))
    passes = {
        name: ("rebuild", *(record.stage for record in item.graph.history))
        for name, item in engines.items()
    }
    made = {
        name: {"versions": dict(item.entry.versions), "code": code_digest()}
        for name, item in engines.items()
    }
    recipe = dict(manifest.recipe)
    recipe["rebuilt"] = {**recipe.get("rebuilt", {}), **made}
    writer.commit(
        replace(
            manifest,
            recipe=recipe,
            passes={**manifest.passes, **passes},
            targets={**manifest.targets, **{name: item.entry for name, item in engines.items()}},
            verification={
                "passed": new["verification"]["passed"],
                "targets": new["verification"]["targets"],
            },
            files={},
        )
    )
