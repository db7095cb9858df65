"""``fuselage.load`` and ``fuselage.pipeline``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Engine, ExecutorOptions
    from .text.runtime import TextRuntime


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
    from .bundle import Bundle

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
    from ..graph.tensors import ShapeProfile
    from .bundle import Bundle
    from .text.pipeline import text_pipeline
    from .text.task import TASK_FILE, TaskSpec

    bundle = Bundle.open(path, trust=trust)
    spec = TaskSpec.load(bundle.path(TASK_FILE))
    tokenizer = bundle.path("tokenizer.json")
    engine = bundle.engine(target, fallback=fallback, threads=threads, executor=executor)
    axes = bundle.manifest.targets[engine.name].profile
    return text_pipeline(engine, tokenizer, spec, profile=ShapeProfile(axes) if axes else None)
