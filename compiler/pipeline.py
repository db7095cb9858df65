"""Build a bundle, or find that nothing has changed; the stages themselves are in stages/."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..calibration.metrics.table import check_max_drop
from ..engines.bundle import Bundle, BundleWriter
from ..engines.folder_swap import WorkFolder
from ..engines.targets import backend, default_targets
from ..errors import BuildError, VerificationError
from .checks.requirement import check_requirements, parse_requirements
from .models.source import resolve_model
from .packing import parse_layout
from .precision import CALIBRATED, INTEGER, QUANTIZED, Assignment, assign, gpus_for
from .profiles.choice import check_shapes, parse_profiles
from .progress import Journal, Listener, Silent
from .recipe import Request, recipe_of, reusable
from .report import REPORT, read_report

_PLANNED = {"tensorrt", "tensorrt-rtx"}
"""Targets that are compiled for compute capabilities."""

_MOST_MEMORY = 1 << 20
"""GiB; more is a number of bytes, or no number."""

_VERIFY = ("each", "final", "off")


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


def run_build(
    request: Request,
    listener: Listener | None = None,
    *,
    force: bool = False,
    use_cache: bool = True,
) -> Outcome:
    """Build a bundle, or return the one at ``request.out`` when the same recipe made it.

    Args:
        request: what to build.
        listener: told about progress and decisions.
        force: build even when an equal bundle is there, and every stage of it anew.
        use_cache: take products of stages from the cache, and keep them there.

    Raises:
        FuselageError: of the stage that failed; the old bundle, or none, is left.
        VerificationError: when an engine does not answer like the model; the bundle is written,
            with the failed verdict in its manifest and report. Also when a block that is required
            is left; nothing is written then.
    """
    journal = Journal(listener or Silent())
    with journal.stage("resolve"):
        source = resolve_model(request.model, revision=request.revision, weights=request.weights)
        targets = _targets(request.targets)
        assignment = assign(targets, request.precision)
        _check_options(request, assignment)
        required = parse_requirements(request.require)
        recipe = recipe_of(request, source, targets)
        bundle, reasons = (None, ("asked for",)) if force else reusable(request.out, recipe)
    if bundle is not None:
        report = read_report(bundle)
        check_requirements(required, report["fusion"], request.out)
        return Outcome(bundle, reused=True, report=report)
    for line in assignment.notes:
        journal.note(line)
    # Imported here: a build with nothing to do must not pay for it.
    from .cache.store import Store
    from .stages.build import run_stages
    from .stages.context import Context
    from .stages.product import StageRunner

    store = Store.default(journal.note) if use_cache else None
    with BundleWriter(request.out) as writer, closing(WorkFolder(writer.destination)) as scratch:
        context = Context(
            request=request,
            source=source,
            recipe=recipe,
            assignment=assignment,
            journal=journal,
            writer=writer,
            runner=StageRunner(scratch.path, journal, store, fresh=force),
        )
        report = run_stages(context)
    if not report["verification"]["passed"]:
        raise VerificationError(_verdict_text(request.out, report))
    return Outcome(Bundle.open(request.out), reused=False, reasons=reasons, report=report)


def _targets(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The targets to build; each one asked for must build on this machine."""
    targets = tuple(dict.fromkeys(asked)) or default_targets()
    for target in targets:
        blocker = backend(target).build_blocker()
        if blocker is not None:
            raise BuildError(f"target {target!r} cannot be built here: {blocker}")
    return targets


def _check_options(request: Request, assignment: Assignment) -> None:
    """Refuse options that no target of the build would heed or read, before the work starts."""
    targets = assignment.precisions
    if request.verify not in _VERIFY:
        raise BuildError(f"verify {request.verify!r}: expected one of {', '.join(_VERIFY)}")
    parse_layout(request.layout)
    check_shapes(request.shapes, request.profiles)
    _check_texts(request, assignment)
    is_quantized = assignment.any_of(QUANTIZED) is not None
    _check_budget(request, is_quantized)
    _check_embeddings(request, assignment)
    _check_evaluation(request, is_quantized)
    for target, precision in targets.items():
        gpus_for(target, precision, request.compute_capabilities)
    _check_gpu(request, targets.keys())
    _check_weights(request, assignment)


def _check_budget(request: Request, is_quantized: bool) -> None:
    given = (request.min_sqnr, request.min_cosine)
    if given != (None, None) and not is_quantized:
        raise BuildError(
            f"accuracy budget: precision {request.precision!r} has no INT8 layers to leave in "
            "float; leave --min-sqnr and --min-cosine out, or ask for int8"
        )
    if request.min_sqnr is not None and not math.isfinite(request.min_sqnr):
        raise BuildError(f"--min-sqnr {request.min_sqnr}: expected decibels, such as 25")
    if request.min_cosine is not None and not -1 <= request.min_cosine < 1:
        raise BuildError(
            f"--min-cosine {request.min_cosine}: expected -1 to below 1, such as 0.99; only the "
            "float model has a cosine of 1 to itself"
        )


def _check_gpu(request: Request, targets: Collection[str]) -> None:
    if request.gpu_memory is not None and not 0 < request.gpu_memory < _MOST_MEMORY:
        raise BuildError(
            f"--gpu-memory {request.gpu_memory:g}: expected the GiB of a GPU, such as 24"
        )
    capabilities = ", ".join(request.compute_capabilities)
    asked = {
        f"compute capabilities {capabilities}": capabilities != "",
        f"--profiles {request.profiles}": parse_profiles(request.profiles) is not None,
        f"--gpu-memory {request.gpu_memory or 0:g}": request.gpu_memory is not None,
        "--refittable": request.refittable,
        "--strip-plan": request.strip_plan,
        "--weight-streaming": request.weight_streaming,
    }
    for option, is_given in asked.items():
        if is_given and _PLANNED.isdisjoint(targets):
            raise BuildError(
                f"{option}: it is for {' or '.join(sorted(_PLANNED))}, this build is for "
                f"{', '.join(targets)}; leave it out, or add a target"
            )


def _check_weights(request: Request, assignment: Assignment) -> None:
    """Refuse plans that cannot be built as asked before the export, which takes longer."""
    if request.strip_plan and assignment.any_of(QUANTIZED):
        raise BuildError(
            f"--strip-plan: precision {request.precision!r} computes with weights that the "
            "bundle's graph does not hold, so the plan alone has them; leave it out, or ask for "
            "fp16"
        )
    if not (request.refittable or request.strip_plan):
        return
    from ..engines.tensorrt.backend import TensorRtBackend
    from ..engines.tensorrt.weights.mode import WeightMode

    mode = WeightMode.asked(refittable=request.refittable, stripped=request.strip_plan)
    for target in sorted(_PLANNED & assignment.precisions.keys()):
        gpus = gpus_for(target, assignment.precisions[target], request.compute_capabilities)
        TensorRtBackend.of(target).check_mode(mode, gpus)


def _check_texts(request: Request, assignment: Assignment) -> None:
    is_fitted = parse_profiles(request.profiles) is not None
    if request.texts is not None and not is_fitted and not assignment.any_of(CALIBRATED):
        raise BuildError(
            f"calibration texts ({request.texts.source}): precision {request.precision!r} is not "
            f"calibrated; leave the texts out, or ask for {' or '.join(CALIBRATED)}"
        )


def _check_embeddings(request: Request, assignment: Assignment) -> None:
    if request.float_attention and not assignment.any_of(QUANTIZED):
        raise BuildError(
            f"--float-attention: precision {request.precision!r} leaves all linears in float; "
            "leave it out, or ask for int8"
        )
    if request.int8_embeddings and not assignment.any_of(INTEGER):
        raise BuildError(
            f"--int8-embeddings: precision {request.precision!r} keeps embedding tables in float; "
            f"leave it out, or ask for {' or '.join(INTEGER)}"
        )


def _check_evaluation(request: Request, is_quantized: bool) -> None:
    check_max_drop(request.max_drop)
    if request.max_drop and request.evaluation is None:
        raise BuildError(
            f"--max-drop {', '.join(request.max_drop)}: expected examples to measure it with; give "
            "--eval FILE"
        )
    if request.evaluation is not None and not is_quantized:
        raise BuildError(
            f"--eval {request.evaluation.source}: precision {request.precision!r} has no INT8 "
            "layers to evaluate; leave it out, or ask for int8"
        )


def _verdict_text(out: Path, report: Mapping[str, Any]) -> str:
    verdicts = report["verification"]["targets"]
    wrong = [f"{v['target']}: {v['reason']}" for v in verdicts if v["passed"] is False]
    lost = [f"{t}: {line}" for t, entry in report["targets"].items() for line in entry["lost"]]
    faults = [f"it does not answer like the model: {'; '.join(wrong)}"] if wrong else []
    faults += [f"its kernels are not those its graph asks for: {'; '.join(lost)}"] if lost else []
    return (
        f"{out}: the bundle was written, but {', and '.join(faults)}; see {out / REPORT}, "
        "or ask for another --precision"
    )
