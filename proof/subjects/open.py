"""Opens a subject by the name the user gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import SourceError
from .base import Subject

FORMS = "torch:MODEL[@REVISION], torch:random:MODEL, ort:FILE, bundle:DIR[#TARGET], results:FILE"
"""What a name may look like, for messages."""


@dataclass(frozen=True, kw_only=True)
class SubjectOptions:
    """How to open a subject; each kind takes what it has a use for.

    Attributes:
        threads: CPU threads; 0 for all physical cores allowed to this process.
        task: of a PyTorch model; ``auto`` picks by the architecture.
        trust: open bundles without a manifest; a TensorRT plan is code.
    """

    threads: int = 0
    task: str = "auto"
    trust: bool = False


def open_subject(name: str, options: SubjectOptions | None = None) -> Subject:
    """Open what a name stands for.

    Args:
        name: ``torch:MODEL``, an alias, hub id (with ``@REVISION``) or folder: float32 in eager
            attention; ``torch:random:MODEL`` for seeded random weights. ``ort:FILE``, an ONNX
            file in ONNX Runtime on the CPU with all its own optimisations. ``bundle:DIR`` for the
            best engine that runs here, ``bundle:DIR#TARGET`` for that one. ``results:FILE``,
            answers kept by `save_results` or by Polygraphy.
        options: None for the defaults.

    Raises:
        SourceError: when the name has none of these forms, or the model cannot be found.
        FuselageError: as opening a model, a graph or a bundle does.
    """
    kind, rest = split_name(name)
    return _KINDS[kind](name, rest, options or SubjectOptions())


def split_name(name: str) -> tuple[str, str]:
    """Kind and the rest of a subject's name.

    Raises:
        SourceError: when it has no known form.
    """
    kind, colon, rest = name.partition(":")
    if colon and rest and kind in _KINDS:
        return kind, rest
    raise SourceError(f"{name!r}: expected one of {FORMS}{_hint(name)}")


def runnable_names(name: str, options: SubjectOptions | None = None) -> tuple[list[str], list[str]]:
    """The subjects a name stands for, and why others of a bundle are left out.

    ``bundle:DIR`` without a target stands for every engine of it that runs on this machine; each
    other name for itself.

    Raises:
        FuselageError: when the name has no known form, or the bundle cannot be opened.
    """
    kind, rest = split_name(name)
    if kind != "bundle" or "#" in rest:
        return [name], []
    from ...engines.bundle import Bundle

    blockers = Bundle.open(rest, trust=(options or SubjectOptions()).trust).blockers()
    runs = [f"{name}#{target}" for target, blocker in blockers.items() if blocker is None]
    left = [f"{name}#{target}: {blocker}" for target, blocker in blockers.items() if blocker]
    return runs or [name], left


def _hint(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"; did you mean bundle:{name} or torch:{name}?"
    if path.suffix in _SUFFIXES:
        return f"; did you mean {_SUFFIXES[path.suffix]}:{name}?"
    return f"; did you mean torch:{name}?" if name and ":" not in name else ""


_SUFFIXES: Mapping[str, str] = {".onnx": "ort", ".npz": "results", ".json": "results"}


def _torch(name: str, rest: str, options: SubjectOptions) -> Subject:
    from .torch_model import TorchSubject

    return TorchSubject.open(name, rest, task=options.task)


def _ort(name: str, rest: str, options: SubjectOptions) -> Subject:
    from .onnx_file import OnnxSubject

    return OnnxSubject.open(name, Path(rest), threads=options.threads)


def _bundle(name: str, rest: str, options: SubjectOptions) -> Subject:
    from .bundle_engine import BundleSubject

    path, _, target = rest.partition("#")
    return BundleSubject.open(
        name, path, target or None, threads=options.threads, trust=options.trust
    )


def _results(name: str, rest: str, options: SubjectOptions) -> Subject:
    del options
    from .results import ResultsSubject

    return ResultsSubject.open(name, rest)


_KINDS: Mapping[str, Callable[[str, str, SubjectOptions], Subject]] = {
    "torch": _torch,
    "ort": _ort,
    "bundle": _bundle,
    "results": _results,
}
