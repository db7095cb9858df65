"""``fuselage.build``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..calibration.evaluation.records import EvaluationFile
    from ..calibration.text.data import CalibrationSet
    from ..engines.bundle import Bundle
    from ..engines.text.texts import Text


def build(
    model: str,
    *,
    out: str | Path,
    precision: str = "auto",
    compare_precisions: bool = False,
    targets: Sequence[str] = (),
    task: str = "auto",
    texts: Iterable[Text | Sequence[int]] | CalibrationSet | None = None,
    int8_embeddings: bool = False,
    float_attention: bool = False,
    min_sqnr: float | None = None,
    min_cosine: float | None = None,
    evaluation: str | Path | EvaluationFile | None = None,
    max_drop: Mapping[str, float] | None = None,
    weights: Literal["pretrained", "random"] = "pretrained",
    revision: str | None = None,
    shapes: str | Sequence[str] = (),
    profiles: str = "wide",
    compute_capabilities: Sequence[str] = (),
    gpu_memory: float | None = None,
    refittable: bool = False,
    strip_plan: bool = False,
    weight_streaming: bool = False,
    layout: Literal["padded", "packed"] = "padded",
    threads: int = 0,
    verify: Literal["each", "final", "off"] = "final",
    require: Sequence[str] = (),
    costs: str | Path | None = None,
    force: bool = False,
    cache: bool = True,
) -> Bundle:
    """Build a verified bundle, or return the one that is there when nothing has changed.

    Args:
        model: alias (``minilm``), hub id, or local folder.
        out: folder of the bundle; an older bundle there is replaced when the new one is complete.
        precision: ``auto`` (each target's fastest float), ``fp32``, ``fp16``, ``bf16``, ``int8``,
            ``int8-weight-only``, or ``fp8`` (GPUs from SM89 on).
        compare_precisions: build the one target in its natural float, int8 without and with
            attention, and fp8, and keep the fastest within the accuracy budget; ``report.json``
            has all of them under ``comparison``.
        targets: names; empty for all that build on this machine.
        task: ``auto`` picks by the architecture.
        texts: for int8 and fp8: texts, pairs of texts, or lists of token ids, of which 512 are
            drawn; a `CalibrationSet` is taken as it is; None takes the corpus that ships with
            fuselage.
        int8_embeddings: for int8 and int8-weight-only: large embedding tables are INT8 too.
        float_attention: for the same and fp8: the linears around an attention stay float.
        min_sqnr: for int8, int8-weight-only and fp8: linears go back to float, the most harmful for
            its size first, until held-out text has this ratio of signal to noise, in decibel.
        min_cosine: the same with the least cosine of an answer to the float one.
        evaluation: for int8: file of examples with what the model should answer; the report says
            what is lost on them.
        max_drop: the same with the points of 100 that a metric may lose on them, for example
            ``{"spearman": 0.1}``.
        weights: ``random`` for the architecture with seeded random weights.
        revision: branch, tag or commit of a hub id.
        shapes: ``batch=1:8:64,sequence=1:128:256``, or several; empty derives it from the model.
        profiles: of TensorRT engines: ``wide`` for one, ``auto`` for at most four fitted to the
            lengths of the texts, or another limit as a number.
        compute_capabilities: for ahead-of-time plans, for example ``("SM80", "SM89")``.
        gpu_memory: GiB of the smallest GPU that TensorRT engines must fit.
        refittable: whether TensorRT plans take other weights later (`fuselage refit`).
        strip_plan: whether TensorRT plans are written without their weights, which are read from
            the bundle's graph when an engine is opened.
        weight_streaming: whether weights of TensorRT plans may stay in host memory; see
            `ExecutorOptions.weight_streaming_budget`.
        layout: ``packed`` lets texts share rows instead of padding them; see docs/packed.md.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        verify: when passes are held to the model's numbers: after each, once at the end, never.
        require: blocks that must be fused, for example ``("attention=all",)``.
        costs: table of ``fuselage tune``; None takes the one that ships.
        force: build even when an equal bundle is there, and every stage of it anew.
        cache: take products of stages from the cache, and keep them there.

    Raises:
        FuselageError: see `fuselage.errors`; nothing half-written is left.
    """
    from ..calibration.evaluation.records import EvaluationFile
    from ..calibration.text.data import CalibrationSet
    from .pipeline import run_build
    from .recipe import Request

    if texts is not None and not isinstance(texts, CalibrationSet):
        texts = CalibrationSet.from_texts(texts)
    if isinstance(evaluation, str | Path):
        evaluation = EvaluationFile.read(evaluation)
    request = Request(
        model=model,
        out=Path(out),
        precision=precision,
        targets=_names(targets),
        task=task,
        texts=texts,
        int8_embeddings=int8_embeddings,
        float_attention=float_attention,
        min_sqnr=min_sqnr,
        min_cosine=min_cosine,
        evaluation=evaluation,
        max_drop=dict(max_drop or {}),
        weights=weights,
        revision=revision,
        shapes=_names(shapes),
        profiles=profiles,
        compute_capabilities=_names(compute_capabilities),
        gpu_memory=gpu_memory,
        refittable=refittable,
        strip_plan=strip_plan,
        weight_streaming=weight_streaming,
        layout=layout,
        threads=threads,
        verify=verify,
        require=_names(require),
        costs=None if costs is None else Path(costs),
    )
    if compare_precisions:
        from .precisions.compare import compare_precisions as choose_precision

        return choose_precision(request, force=force, use_cache=cache).bundle
    return run_build(request, force=force, use_cache=cache).bundle


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """One name alone is one name, not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)
