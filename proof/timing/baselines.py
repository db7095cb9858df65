"""What a user has without fuselage, as subjects: PyTorch three ways and plain ONNX Runtime."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...compiler.models.source import ModelSource, Weights, resolve_model
from ...compiler.packages import EXPORTING, require
from ...engines import host
from ...engines.bundle import Bundle
from ...errors import ExportError, SourceError
from ...graph.tensors import Array, Feeds, TensorSpec
from ..subjects.base import Subject
from ..subjects.onnx_file import OnnxSubject

if TYPE_CHECKING:
    from ...compiler.exporting.baselines import TorchBaseline, TorchForm

TORCH_FORMS: dict[str, TorchForm] = {
    "torch-eager": "eager",
    "torch-sdpa": "sdpa",
    "torch-compile": "compile",
}
ORT = "ort"
BASELINES = (*TORCH_FORMS, ORT)
_AXES = ("batch", "sequence")


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """The model that baselines run, as text, so that another process can find it.

    Attributes:
        name: alias, hub id or folder.
        revision: of a hub id.
        weights: ``pretrained`` or ``random``.
        task: one of the tasks, or ``auto``.
        digest: the source must have it; empty to take any.
    """

    name: str
    revision: str | None = None
    weights: Weights = "pretrained"
    task: str = "auto"
    digest: str = ""

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ModelName:
        """The model a bundle was built from."""
        from ...compiler.models.aliases import DEMO_ALIAS, alias_of

        manifest = bundle.manifest
        alias = alias_of(manifest.model.id)
        is_demo = alias == DEMO_ALIAS or manifest.weights == "random"
        return cls(
            name=alias if alias and is_demo else manifest.model.id,
            revision=None if alias and is_demo else manifest.model.revision,
            weights="random" if manifest.weights == "random" else "pretrained",
            task=manifest.task,
            digest=manifest.model.digest,
        )

    def resolve(self) -> ModelSource:
        """Find it.

        Raises:
            SourceError: when it is not here, or is another one than the bundle's.
        """
        try:
            source = resolve_model(self.name, revision=self.revision, weights=self.weights)
        except SourceError as error:
            raise SourceError(f"{error}; name the model's folder with --model") from error
        if self.digest and source.digest != self.digest:
            raise SourceError(
                f"{self.name}: the bundle was built from another model of this name (digest "
                f"{self.digest[:12]}, found {source.digest[:12]}); give the right one with --model"
            )
        return source


class TorchBaselineSubject(Subject):
    """A model in PyTorch as a user runs it."""

    def __init__(self, name: str, baseline: TorchBaseline) -> None:
        spec = baseline.spec
        self.name = name
        self.precision = "fp32"
        self.task = spec
        self.inputs = tuple(
            TensorSpec(item, "int64", ("batch", "sequence")) for item in spec.inputs
        )
        self.outputs = tuple(TensorSpec(item, "float32", ("batch",)) for item in spec.outputs)
        self._baseline = baseline
        self._folder = tempfile.TemporaryDirectory(prefix="fuselage-")
        self.tokenizer = Path(self._folder.name) / "tokenizer.json"
        self.tokenizer.write_bytes(baseline.tokenizer)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Answer once."""
        return self._baseline.run(feeds)

    def close(self) -> None:
        """Remove the tokenizer's file."""
        self._folder.cleanup()


def check_baselines(names: tuple[str, ...]) -> tuple[str, ...]:
    """Read names of baselines; ``all`` stands for every one.

    Raises:
        SourceError: on an unknown name.
    """
    unknown = [name for name in names if name not in (*BASELINES, "all")]
    if unknown:
        raise SourceError(
            f"baseline {unknown[0]!r}: expected one of {', '.join(BASELINES)}, or all"
        )
    return BASELINES if "all" in names else tuple(dict.fromkeys(names))


def open_baseline(kind: str, model: ModelName, threads: int, folder: Path) -> Subject:
    """Open one.

    Args:
        kind: one of `BASELINES`.
        model: which model.
        threads: CPU threads; 0 for all physical cores.
        folder: where the exported graph is kept; a graph that is there already is taken.

    Raises:
        FuselageError: why it cannot run here.
    """
    if kind == ORT:
        return OnnxSubject.open(kind, _exported(model, folder), threads=threads)
    require(EXPORTING, f"the baseline {kind}")
    if kind == "torch-compile" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise ExportError("torch.compile needs a C++ compiler, and none is installed here")
    from ...compiler.exporting.baselines import torch_baseline

    threads = threads or host.physical_cores()
    source = model.resolve()
    baseline = torch_baseline(source, model.task, TORCH_FORMS[kind], threads=threads)
    return TorchBaselineSubject(kind, baseline)


def _exported(model: ModelName, folder: Path) -> Path:
    path = folder / "plain.onnx"
    if not path.exists():
        require(EXPORTING, "exporting the plain graph of the baseline ort")
        from ...compiler.exporting.baselines import plain_onnx

        plain_onnx(model.resolve(), model.task, path)
    return path
