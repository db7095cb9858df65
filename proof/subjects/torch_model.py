"""A PyTorch model as a subject: what transformers' eager attention answers in float32."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...engines.text.task import TaskSpec
from ...graph.tensors import Array, Dim, Feeds, TensorSpec, check_feeds
from .base import Subject, chosen_feeds

if TYPE_CHECKING:
    from ...compiler.exporting.export import TorchReference

_RANDOM = "random:"
_AXES = ("batch", "sequence")


class TorchSubject(Subject):
    """A PyTorch model; make it with `open`.

    Attributes:
        reference: the model, for those who look inside.
    """

    def __init__(
        self,
        name: str,
        reference: TorchReference,
        task: TaskSpec,
        tokenizer: bytes,
    ) -> None:
        self.name = name
        self.reference = reference
        self.precision = "fp32"
        self.task = task
        self.inputs = tuple(TensorSpec(item, "int64", _AXES) for item in reference.inputs)
        self.outputs = _outputs(reference)
        self._folder: tempfile.TemporaryDirectory[str] | None = tempfile.TemporaryDirectory(
            prefix="fuselage-"
        )
        self.tokenizer = Path(self._folder.name) / "tokenizer.json"
        self.tokenizer.write_bytes(tokenizer)

    @classmethod
    def open(cls, name: str, model: str, *, task: str = "auto") -> TorchSubject:
        """Load a model.

        Args:
            name: as the user wrote it.
            model: alias, folder, or hub id with or without ``@REVISION``; behind ``random:`` for
                seeded random weights.
            task: one of the tasks, or ``auto``.

        Raises:
            SourceError: when the model cannot be found or read.
            ExportError: when it cannot be loaded for the task.
            MissingPackageError: without torch and transformers.
        """
        from ...compiler.models.source import resolve_model
        from ...compiler.packages import EXPORTING, require

        require(EXPORTING, "asking a PyTorch model")
        from ...compiler.exporting.export import load_described

        is_random = model.startswith(_RANDOM)
        path, _, revision = model.removeprefix(_RANDOM).partition("@")
        source = resolve_model(
            path, revision=revision or None, weights="random" if is_random else "pretrained"
        )
        loaded = load_described(source, task)
        return cls(name, loaded.reference, loaded.task_spec, loaded.tokenizer)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Answer once."""
        fed = chosen_feeds(self.inputs, feeds, self.name)
        check_feeds(self.inputs, fed)
        return self.reference.run(fed)

    def in_float64(self) -> TorchSubject:
        """A copy of the model in float64."""
        assert self.task is not None
        precise = copy.copy(self)  # what it takes and gives is known; only numbers differ
        precise.name, precise.precision = f"{self.name} in float64", "fp64"
        precise.reference = self.reference.in_float64()
        precise.outputs = tuple(replace(spec, dtype="float64") for spec in self.outputs)
        precise.tokenizer, precise._folder = None, None  # noqa: SLF001 (a copy of this one)
        return precise

    def close(self) -> None:
        """Remove the tokenizer's file."""
        if self._folder is not None:
            self._folder.cleanup()


def _outputs(reference: TorchReference) -> tuple[TensorSpec, ...]:
    """Names, dtypes and dims, from what two small inputs are answered with."""
    short, long = (
        reference.run({name: np.ones((1, width), np.int64) for name in reference.inputs})
        for width in (3, 4)
    )
    return tuple(_output(name, short[name], long[name]) for name in reference.outputs)


def _output(name: str, short: Array, long: Array) -> TensorSpec:
    dims: list[Dim] = [
        "sequence" if size != longer else size
        for size, longer in zip(short.shape, long.shape, strict=True)
    ]
    return TensorSpec(name, short.dtype.name, ("batch", *dims[1:]))
