"""Recipe: everything that has a say in a bundle, so that equal recipes mean equal bundles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..calibration.evaluation.records import EvaluationFile
from ..calibration.text.data import CalibrationSet
from ..engines import host
from ..engines.bundle import Bundle
from ..errors import BuildError, BundleError
from .cache.code import code_digest
from .models.source import ModelSource

_PACKAGES = (
    "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "tokenizers", "torch", "transformers",
)  # fmt: skip
_TARGET_PACKAGES = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
    "ort-cuda": ("onnxruntime-gpu",),
}
Recipe = dict[str, Any]
Layout = Literal["padded", "packed"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for.

    Attributes:
        model: alias, local folder or hub id.
        out: folder of the bundle.
        precision: one of `precision.ASKED`.
        targets: names, empty for all that build here.
        task: one of the tasks, or ``auto``.
        texts: calibration texts; None for the corpus that ships with fuselage.
        min_sqnr: INT8 linears go back to float until held-out text has this ratio of signal to
            noise, in decibel; None for all in INT8.
        min_cosine: the same with the least cosine of an answer.
        int8_embeddings: whether embedding tables are INT8 too, for the INT8 precisions.
        float_attention: whether the linears around an attention stay float, for the same and fp8.
        evaluation: examples with what the model should answer.
        max_drop: the same with the points of 100 that a metric may lose on them, by its name.
        weights: ``pretrained`` or ``random``.
        revision: of a hub id.
        shapes: profiles as text, ``batch=1:8:64,sequence=1:128:256``; empty derives them.
        profiles: how they are derived: one ``wide``, ``auto`` from the lengths of the texts, or
            ``auto`` with another limit as a number.
        compute_capabilities: GPUs of an ahead-of-time plan; empty for the default.
        gpu_memory: GiB of the smallest GPU that TensorRT engines must fit; None for no bound.
        refittable: whether TensorRT plans take other weights later.
        strip_plan: whether TensorRT plans are written without their weights.
        weight_streaming: whether weights of TensorRT plans may stay in host memory.
        threads: CPU threads; 0 for all physical cores.
        layout: ``padded`` for a text a row, ``packed`` for several.
        verify: when passes are held to the numbers of the model: ``each``, ``final``, ``off``.
        require: blocks that must be fused, such as ``attention=all``.
        comparison: what was compared to choose the precision; empty when it was asked for.
        costs: table of ``fuselage tune``; None takes the one that ships.
    """

    model: str
    out: Path
    precision: str = "auto"
    targets: tuple[str, ...] = ()
    task: str = "auto"
    texts: CalibrationSet | None = field(default=None, repr=False)
    min_sqnr: float | None = None
    min_cosine: float | None = None
    int8_embeddings: bool = False
    float_attention: bool = False
    evaluation: EvaluationFile | None = field(default=None, repr=False)
    max_drop: Mapping[str, float] = field(default_factory=dict)
    weights: Literal["pretrained", "random"] = "pretrained"
    revision: str | None = None
    shapes: tuple[str, ...] = ()
    profiles: str = "wide"
    compute_capabilities: tuple[str, ...] = ()
    gpu_memory: float | None = None
    refittable: bool = False
    strip_plan: bool = False
    weight_streaming: bool = False
    layout: str = "padded"
    threads: int = 0
    verify: str = "final"
    require: tuple[str, ...] = ()
    costs: Path | None = None
    comparison: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


def recipe_of(request: Request, source: ModelSource, targets: tuple[str, ...]) -> Recipe:
    """The recipe of a request; cheap, nothing heavy is imported."""
    packages = (*_PACKAGES, *(name for t in targets for name in _TARGET_PACKAGES.get(t, ())))
    return {
        "model": {"id": source.id, "revision": source.revision, "digest": source.digest},
        "weights": source.weights,
        "task": request.task,
        "precision": request.precision,
        "int8_embeddings": request.int8_embeddings,
        "float_attention": request.float_attention,
        "compared": [result["name"] for result in request.comparison],
        "targets": list(targets),
        "shapes": list(request.shapes),
        "profiles": request.profiles,
        "verify": request.verify,
        "compute_capabilities": list(request.compute_capabilities),
        "gpu_memory": request.gpu_memory,
        "refittable": request.refittable,
        "strip_plan": request.strip_plan,
        "weight_streaming": request.weight_streaming,
        "layout": request.layout,
        "costs": None if request.costs is None else _file_digest(request.costs),
        "texts": None if request.texts is None else request.texts.digest,
        "evaluation": None if request.evaluation is None else request.evaluation.digest,
        "budget": {
            "min_sqnr": request.min_sqnr,
            "min_cosine": request.min_cosine,
            "max_drop": dict(request.max_drop),
        },
        "versions": host.package_versions(packages),
        "code": code_digest(),
        "cpu": list(host.cpu().flags) if "ort-cpu" in targets else [],
    }


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}; expected a table of fuselage tune") from error


def reusable(out: Path, recipe: Recipe) -> tuple[Bundle | None, tuple[str, ...]]:
    """The bundle at `out` when it was made by the same recipe and is sound.

    Returns:
        The bundle and no reasons, or None and why it is built anew (empty when there was none).
    """
    if not out.is_dir() or not any(out.iterdir()):
        return None, ()
    try:
        bundle = Bundle.open(out, full=True)
    except BundleError as error:
        return None, (str(error),)
    reasons = tuple(changes(bundle.manifest.recipe, recipe))
    if not reasons and not bundle.manifest.verification.get("passed"):
        return None, ("the last build did not pass its verification",)
    return (None, reasons) if reasons else (bundle, ())


def changes(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """One line for each key that differs: ``versions.onnxruntime: '1.31.0' -> '1.31.1'``."""
    lines: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        name = f"{path}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changes(before, after, f"{name}.")
        elif before != after and name == "code":
            lines.append("fuselage's own code changed")
        elif before != after:
            lines.append(f"{name}: {_shown(before)} -> {_shown(after)}")
    return lines


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:24]}...{text[-12:]}"
