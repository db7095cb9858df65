"""A model as one runs it without fuselage: in PyTorch three ways, and as the exporter writes it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ...engines.text.task import TaskSpec
from ...errors import ExportError
from ...graph.tensors import Array, Feeds
from ..models.checkpoint import first_line, load_checkpoint
from ..models.source import ModelSource
from .quiet import quiet_transformers
from .tasks import BATCH, SEQUENCE, choose_task, task_module

TorchForm = Literal["eager", "sdpa", "compile"]


@dataclass(frozen=True, kw_only=True)
class TorchBaseline:
    """A PyTorch model with weights and attention as transformers gives them.

    Unlike `TorchReference`, whose linear weights are transposed in memory for the export.

    Attributes:
        module: takes and gives what the graph takes and gives.
        spec: its task.
        tokenizer: content of tokenizer.json.
    """

    module: Any = field(repr=False)
    spec: TaskSpec
    tokenizer: bytes = field(repr=False)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the model on int64 [batch, sequence]; the arrays are read in place.

        Raises:
            ExportError: when PyTorch fails or cannot compile the model here.
        """
        try:
            with torch.inference_mode():
                tensors = {name: torch.from_numpy(feeds[name]) for name in self.spec.inputs}
                values = self.module(**tensors)
        except Exception as error:  # the compiler raises whatever its own parts raise
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise ExportError(f"PyTorch failed on {shapes}: {first_line(error)}") from error
        return dict(zip(self.spec.outputs, (value.numpy() for value in values), strict=True))


def torch_baseline(
    source: ModelSource, task: str, form: TorchForm, *, threads: int
) -> TorchBaseline:
    """Load a model for timing.

    Args:
        source: from `resolve_model`.
        task: one of the tasks, or ``auto``.
        form: ``eager`` attention, ``sdpa`` (what transformers loads by default), or sdpa through
            ``torch.compile`` with its defaults, which compiles at the first call of a shape.
        threads: of PyTorch, for the whole process.

    Raises:
        ExportError: when the model does not fit the task or has no sdpa.
        SourceError: when files of the model are damaged.
    """
    use_threads(threads)
    checkpoint = load_checkpoint(source, choose_task(source, task))
    if form != "eager":
        _use_sdpa(source, checkpoint.model)
    module: Any = task_module(checkpoint.model, checkpoint.spec.task, checkpoint.modules)
    if form == "compile":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, of its parts
            module = torch.compile(module)
    return TorchBaseline(module=module, spec=checkpoint.spec, tokenizer=checkpoint.tokenizer)


def use_threads(threads: int) -> None:
    """Give PyTorch so many CPU threads, for the whole process."""
    torch.set_num_threads(threads)


def plain_onnx(source: ModelSource, task: str, path: Path) -> None:
    """Write the ONNX file that ``torch.onnx.export`` gives by default: its opset, sdpa attention.

    Args:
        source: from `resolve_model`.
        task: one of the tasks, or ``auto``.
        path: to write; large weights go beside it.

    Raises:
        ExportError: when the model does not fit the task or cannot be exported.
        SourceError: when files of the model are damaged.
    """
    checkpoint = load_checkpoint(source, choose_task(source, task))
    _use_sdpa(source, checkpoint.model)
    module = task_module(checkpoint.model, checkpoint.spec.task, checkpoint.modules)
    axes = {0: torch.export.Dim(BATCH), 1: torch.export.Dim(SEQUENCE)}
    names = list(checkpoint.spec.inputs)
    # One tensor each: a tensor that stands for two inputs becomes one input.
    example = {name: torch.ones((2, 16), dtype=torch.int64) for name in names}
    with quiet_transformers(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                kwargs=example,
                input_names=names,
                output_names=list(checkpoint.spec.outputs),
                dynamic_shapes=dict.fromkeys(names, axes),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises whatever the traced code raises
            raise ExportError(
                f"{source.id}: the plain export failed: {first_line(error.__cause__ or error)}"
            ) from error
    if program is None:
        raise ExportError(f"{source.id}: the PyTorch exporter returned nothing")
    program.save(path)


def _use_sdpa(source: ModelSource, model: Any) -> None:
    try:
        with quiet_transformers():
            model.set_attn_implementation("sdpa")
    except ValueError as error:
        raise ExportError(
            f"{source.id}: transformers has no sdpa attention for it: {first_line(error)}"
        ) from error
