"""The same architecture with other weights: a new bundle from an old one.

Initializers of a canonical graph are not those of a checkpoint: passes transpose, fold, merge and
name them anew, and what they do may depend on values. So the new checkpoint goes through export and
passes as in a build, out of the cache where it can, and the graph that comes out is held to the
old one. Only the plans of TensorRT are refitted in place of being built.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engines.base import ENGINE_FACTS
from ...engines.bundle import Bundle, BundleWriter
from ...engines.choice import base_target
from ...engines.folder_swap import WorkFolder
from ...engines.targets import backend
from ...engines.tensorrt.backend import PLAN
from ...engines.tensorrt.facts import PlanFacts
from ...engines.text.task import TASK_FILE, TaskSpec
from ...errors import BuildError, BundleError, VerificationError
from ..models.source import ModelSource
from ..precision import QUANTIZED, Assignment, assign
from ..progress import Journal, Listener, Silent
from ..recipe import Recipe, Request, recipe_of
from ..stages.held import Held
from ..stages.kept_graph import KeptGraph
from .form import canonical_graph
from .new_weights import new_source
from .past import past_report
from .shapes import stated_shapes

_PLANNED = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True)
class RefitWish:
    """What to refit.

    Attributes:
        bundle: folder of the bundle.
        weights: safetensors file, or folder of a model.
        out: folder of the new bundle; None replaces the bundle itself.
        targets: of the new bundle; empty for all that the old one has.
        rebuild: build TensorRT plans that take no weights again.
        model: where the old model is now, for a file of weights; None for the id in the bundle.
        threads: CPU threads; 0 for all physical cores.
        use_cache: take products of stages from the cache, and keep them there.
    """

    bundle: Path
    weights: Path
    out: Path | None = None
    targets: tuple[str, ...] = ()
    rebuild: bool = False
    model: str | None = None
    threads: int = 0
    use_cache: bool = True


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """What came of it.

    Attributes:
        bundle: open and complete.
        how: target -> ``refitted`` or ``built``.
        left_out: targets of the old bundle that the new one has not.
        report: content of ``report.json``.
    """

    bundle: Bundle
    how: Mapping[str, str]
    left_out: tuple[str, ...]
    report: Mapping[str, Any] = field(repr=False)


def refit(wish: RefitWish, listener: Listener | None = None) -> Refitted:
    """Make a bundle of the same architecture with other weights.

    Raises:
        BuildError: when a target is quantised, a plan takes no weights, or the new model is of
            another architecture, task or tokenizer.
        BundleError: when the bundle is damaged, or changed meanwhile.
        SourceError: when the weights cannot be read.
        VerificationError: when an engine does not answer like the new model; the old bundle, or
            none, is left then.
    """
    from ..cache.store import Store
    from ..stages.build import run_stages
    from ..stages.context import Context
    from ..stages.product import StageRunner

    journal = Journal(listener or Silent())
    bundle = Bundle.open(wish.bundle, full=True)
    targets = _targets(bundle, wish)
    _refuse_quantised(bundle, targets)
    plans = _plans(bundle, targets, wish)
    held = _Replacing(bundle, wish).held(plans)
    store = Store.default(journal.note) if wish.use_cache else None
    out = wish.out or wish.bundle
    with (
        new_source(bundle, wish.weights, wish.model) as source,
        BundleWriter(out) as writer,
        closing(WorkFolder(writer.destination)) as scratch,
    ):
        request = _request(bundle, wish, targets)
        report = run_stages(
            Context(
                request=request,
                source=source,
                recipe=_recipe(bundle, request, source, plans),
                assignment=_assignment(bundle, targets),
                journal=journal,
                writer=writer,
                runner=StageRunner(scratch.path, journal, store),
                held=held,
            )
        )
    return Refitted(
        bundle=Bundle.open(out),
        how={target: "refitted" if target in plans else "built" for target in targets},
        left_out=tuple(name for name in bundle.targets if name not in targets),
        report=report,
    )


def _targets(bundle: Bundle, wish: RefitWish) -> tuple[str, ...]:
    targets = tuple(dict.fromkeys(wish.targets)) or bundle.targets
    for target in targets:
        bundle.folder(target)  # says what the bundle has instead
        if target != base_target(target):
            raise BuildError(
                f"{target}: an engine for one of several GPUs is not refitted with the others; "
                f"name the targets that go into the new bundle with --target, and build {target} "
                "on its GPU with: fuselage rebuild --beside"
            )
    return targets


def _refuse_quantised(bundle: Bundle, targets: tuple[str, ...]) -> None:
    for target in targets:
        precision = bundle.manifest.targets[target].precision
        if precision in QUANTIZED:
            raise BuildError(
                f"{target} is {precision}: its scales, and the layers that a budget left in float, "
                "belong to the old weights, and other weights would be rounded by them without a "
                f"word; calibrate anew with: fuselage build NEW_MODEL --precision {precision} "
                "--text FILE, or name the float targets with --target"
            )


def _plans(bundle: Bundle, targets: tuple[str, ...], wish: RefitWish) -> dict[str, Path]:
    """Target -> folder of each plan that takes the new weights.

    Raises:
        BuildError: on one that must be built again when that was not asked for, or cannot be here.
    """
    plans, fixed = {}, []
    for target in targets:
        if target in _PLANNED:
            facts = PlanFacts.read(bundle.folder(target) / ENGINE_FACTS, target)
            if facts.mode.refit == "any":
                plans[target] = bundle.folder(target)
                if facts.mode.stripped:
                    continue
                if blocker := backend(target).run_blocker():
                    raise BuildError(f"{target}: a plan is refitted on a GPU: {blocker}")
                continue
            if not wish.rebuild:
                fixed.append(target)
                continue
        if blocker := backend(target).build_blocker():
            raise BuildError(f"target {target!r} cannot be built here: {blocker}")
    if fixed:
        raise BuildError(
            f"{', '.join(fixed)}: the plan was built with its weights fixed and must be built "
            "again: add --rebuild to do so now, or name the other targets with --target; plans of "
            "a build with --refittable take other weights"
        )
    return plans


@dataclass(frozen=True)
class _Replacing:
    """Holds the new model to the old bundle."""

    bundle: Bundle
    wish: RefitWish

    def held(self, plans: Mapping[str, Path]) -> Held:
        """For the stages."""
        shapes = stated_shapes(self.bundle, past_report(self.bundle))
        return Held(shapes=shapes, plans=plans, check=self.check, judge=self.judge)

    def check(self, spec: TaskSpec, tokenizer: Path, canonical: KeptGraph) -> None:
        """Refuse another task, tokenizer or graph; names of labels may be new."""
        from ...graph.structure import difference

        advice = "build a bundle of its own with: fuselage build"
        old = TaskSpec.load(self.bundle.path(TASK_FILE)).to_dict()
        new = spec.to_dict()
        free = {"labels"} if len(old.get("labels", ())) == len(new.get("labels", ())) else set()
        for key in sorted((old.keys() | new.keys()) - free):
            if old.get(key) != new.get(key):
                raise BuildError(
                    f"{self.wish.weights}: expected {key} {old.get(key)!r:.60} as in "
                    f"{self.bundle.root}, got {new.get(key)!r:.60}; {advice}"
                )
        if tokenizer.read_bytes() != self.bundle.path("tokenizer.json").read_bytes():
            raise BuildError(
                f"{self.wish.weights}: its tokenizer is not that of {self.bundle.root}, so texts "
                f"would become other tokens; {advice}"
            )
        found = difference(canonical_graph(self.bundle).model, canonical.load().model)
        if found is not None:
            raise BuildError(
                f"{self.wish.weights}: this is another architecture than that of "
                f"{self.bundle.root}: {found}; {advice}"
            )

    def judge(self, report: Mapping[str, Any]) -> None:
        """Refuse to replace a bundle by one that does not answer, or one that changed meanwhile."""
        if not report["verification"]["passed"]:
            wrong = [
                f"{item['target']}: {item['reason']}"
                for item in report["verification"]["targets"]
                if not item["passed"]
            ]
            wrong += [f"{t}: {line}" for t, e in report["targets"].items() for line in e["lost"]]
            raise VerificationError(
                f"{self.wish.weights}: nothing was written, because an engine does not answer "
                f"like the new model: {'; '.join(wrong)}; build a bundle of its own"
            )
        if Bundle.open(self.bundle.root).manifest != self.bundle.manifest:
            raise BundleError(
                f"{self.bundle.root}: the bundle was changed by another process meanwhile; run it "
                "again"
            )


def _assignment(bundle: Bundle, targets: tuple[str, ...]) -> Assignment:
    held = bundle.manifest.targets
    return Assignment({t: assign((t,), held[t].precision).precisions[t] for t in targets}, ())


def _request(bundle: Bundle, wish: RefitWish, targets: tuple[str, ...]) -> Request:
    manifest = bundle.manifest
    recipe = manifest.recipe
    rtx, limit = manifest.targets.get("tensorrt-rtx"), recipe.get("gpu_memory")
    return Request(
        model=str(wish.weights),
        out=wish.out or wish.bundle,
        precision=str(recipe.get("precision", "auto")),
        targets=targets,
        task=manifest.task,
        compute_capabilities=rtx.compute_capabilities if rtx else (),
        gpu_memory=limit if isinstance(limit, int | float) else None,
        refittable=recipe.get("refittable") is True,
        strip_plan=recipe.get("strip_plan") is True,
        weight_streaming=recipe.get("weight_streaming") is True,
        layout=str(recipe.get("layout", "padded")),
        threads=wish.threads,
        verify=str(recipe.get("verify", "final")),
    )


def _recipe(
    bundle: Bundle, request: Request, source: ModelSource, plans: Mapping[str, Path]
) -> Recipe:
    """Of a build from the new model, with the sizes of the old bundle and what was refitted."""
    old = bundle.manifest.recipe
    kept = {key: old[key] for key in ("task", "shapes", "profiles", "texts") if key in old}
    files = bundle.manifest.files
    digests = {name: files[f"{folder.name}/{PLAN}"].sha256 for name, folder in plans.items()}
    refitted = {"from": bundle.manifest.model.digest, "plans": digests}
    new = recipe_of(request, source, request.targets)
    return {**new, **kept, "refitted": refitted}
