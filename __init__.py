"""fuselage turns a Hugging Face transformer into a verified engine bundle.

    import fuselage

    bundle = fuselage.build("minilm", out="build/minilm")      # export, rewrite, compile, prove
    with fuselage.load("build/minilm") as engine:              # the best target for this machine
        outputs = engine.run({"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    embed = fuselage.pipeline("build/minilm")
    vectors = embed(["two texts", "in, vectors [2, 384] out"])

Importing fuselage imports neither torch nor any engine; each verb imports what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .errors import (
    BuildError,
    BundleError,
    CalibrationError,
    DeviceError,
    ExportError,
    FeedError,
    FuselageError,
    GraphError,
    MissingPackageError,
    OpsetError,
    PassError,
    SourceError,
    TextError,
    VerificationError,
)
from .proof.comparing.api import compare
from .proof.reporting.api import report

if TYPE_CHECKING:
    from .calibration.evaluation.records import EvaluationFile
    from .calibration.text.data import CalibrationSet
    from .engines.base import Engine, ExecutorOptions
    from .engines.bundle import Bundle
    from .engines.text.runtime import TextRuntime
    from .engines.text.texts import Text
    from .proof.timing.results import Benchmark

__all__ = [
    "BuildError",
    "BundleError",
    "CalibrationError",
    "DeviceError",
    "ExportError",
    "FeedError",
    "FuselageError",
    "GraphError",
    "MissingPackageError",
    "OpsetError",
    "PassError",
    "SourceError",
    "TextError",
    "VerificationError",
    "__version__",
    "bench",
    "build",
    "compare",
    "load",
    "pipeline",
    "report",
]

__version__ = "0.1.0"


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
        threads: CPU threads; 0 for all physical cores allowed to this process.
        verify: when passes are held to the model's numbers: after each, once at the end, never.
        require: blocks that must be fused, for example ``("attention=all",)``.
        costs: table of ``fuselage tune``; None takes the one that ships.
        force: build even when an equal bundle is there, and every stage of it anew.
        cache: take products of stages from the cache, and keep them there.

    Raises:
        FuselageError: see `fuselage.errors`; nothing half-written is left.
    """
    from .calibration.evaluation.records import EvaluationFile
    from .calibration.text.data import CalibrationSet
    from .compiler.pipeline import run_build
    from .compiler.recipe import Request

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
        threads=threads,
        verify=verify,
        require=_names(require),
        costs=None if costs is None else Path(costs),
    )
    if compare_precisions:
        from .compiler.precisions.compare import compare_precisions as choose_precision

        return choose_precision(request, force=force, use_cache=cache).bundle
    return run_build(request, force=force, use_cache=cache).bundle


def _names(names: Sequence[str]) -> tuple[str, ...]:
    """One name alone is one name, not its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def load(
    path: str | Path,
    *,
    target: str | None = None,
    fallback: Sequence[str] = (),
    threads: int = 0,
    executor: ExecutorOptions | None = None,
    trust: bool = False,
) -> Engine:
    """Open an engine of a bundle.

    Args:
        path: folder of the bundle.
        target: None for the first of ``fallback``, and without any the best one that runs on this
            machine.
        fallback: targets to try next, in this order. Taking one gives a `FallbackWarning`, and
            ``engine.notes`` and ``engine.passed_over`` say why the ones before it do not run.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        executor: lanes, CUDA graphs and buckets of a TensorRT engine, an `ExecutorOptions` of
            `fuselage.engines.base`; None for the defaults.
        trust: open engines without a manifest; a TensorRT plan is code.

    Raises:
        BundleError: when the bundle is missing or damaged, or a name is no target.
        DeviceError: when none of the targets runs here; the message says why, and names others
            that do.
    """
    from .engines.bundle import Bundle

    bundle = Bundle.open(path, trust=trust)
    return bundle.engine(target, fallback=fallback, threads=threads, executor=executor)


def pipeline(
    path: str | Path,
    *,
    target: str | None = None,
    fallback: Sequence[str] = (),
    threads: int = 0,
    executor: ExecutorOptions | None = None,
    trust: bool = False,
) -> TextRuntime:
    """Open a bundle as a callable from texts to answers.

    Args:
        path: folder of the bundle.
        target: see `load`.
        fallback: see `load`.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        executor: see `load`.
        trust: open engines without a manifest; a TensorRT plan is code.

    Returns:
        The runtime of the bundle's task; embedding gives float32 [texts, dimension], the others
        what the transformers pipeline of the same name gives. Close it, or use it in ``with``.

    Raises:
        BundleError: when the bundle is missing or damaged.
        DeviceError: when the target cannot run here.
    """
    from .engines.bundle import Bundle
    from .engines.text.pipeline import text_pipeline
    from .engines.text.task import TASK_FILE, TaskSpec
    from .graph.tensors import ShapeProfile

    bundle = Bundle.open(path, trust=trust)
    spec = TaskSpec.load(bundle.path(TASK_FILE))
    tokenizer = bundle.path("tokenizer.json")
    engine = bundle.engine(target, fallback=fallback, threads=threads, executor=executor)
    axes = bundle.manifest.targets[engine.name].profile
    return text_pipeline(engine, tokenizer, spec, profile=ShapeProfile(axes) if axes else None)


def bench(
    *subjects: str | Path,
    baselines: Sequence[str] = (),
    model: str | None = None,
    task: str = "auto",
    mode: Literal["engine", "e2e", "pipeline"] = "engine",
    shapes: str | Sequence[str] = (),
    texts: Sequence[str | Path] = (),
    clients: int = 1,
    rate: float | None = None,
    seconds: float = 3.0,
    iterations: int = 10,
    threads: int = 0,
    floor: float = 0.02,
    memory: bool = True,
    anyway: bool = False,
    trust: bool = False,
) -> Benchmark:
    """Time subjects in rounds of random order and say which differences are more than noise.

    Args:
        subjects: folders of bundles, .onnx files or ``torch:MODEL``; the others are compared with
            the first.
        baselines: of ``torch-eager``, ``torch-sdpa``, ``torch-compile``, ``ort``; or ``all``.
        model: what baselines run; None for the model of the first bundle.
        task: of ``torch:`` subjects and ``model``.
        mode: arrays to arrays, the same with the copies of a GPU, or texts to answers.
        shapes: such as ``1x128,8x128``; ``8`` is eight texts of their own lengths.
        texts: files whose texts give lengths and tokens; empty for the corpus that ships.
        clients: threads that send calls.
        rate: calls a second of open load; None for clients that wait for their answers.
        seconds: timed of each candidate, at least.
        iterations: calls of each candidate, at least.
        threads: CPU threads; 0 for all physical cores allowed to this process.
        floor: difference that counts, 0.02 for two percent.
        memory: measure peak memory, each candidate in a process of its own.
        anyway: on a busy machine give figures without verdicts.
        trust: open engines without a manifest; a TensorRT plan is code.

    Raises:
        DeviceError: when the machine is too busy to conclude anything.
        FeedError: when a subject does not take a shape, or options contradict one another.
        FuselageError: as opening the subjects does.
    """
    from .proof.timing.bench import run_bench
    from .proof.timing.race import Rules
    from .proof.timing.request import Request

    request = Request(
        subjects=tuple(map(str, subjects)),
        baselines=_names(baselines),
        model=model,
        task=task,
        mode=mode,
        shapes=_names(shapes),
        texts=tuple(map(Path, texts)),
        clients=clients,
        rate=rate,
        rules=Rules(seconds=seconds, iterations=iterations),
        threads=threads,
        floor=floor,
        memory=memory,
        anyway=anyway,
        trust=trust,
    )
    return run_bench(request)
