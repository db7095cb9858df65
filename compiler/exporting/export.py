"""Export: a PyTorch model becomes a Graph in the canonical dialect, with a reference to hold it to.

The semantics of the reference are those of transformers' eager attention: a row whose mask is all
zeros spreads its attention evenly (the mask is a finite minimum), where PyTorch's fused attention
answers 0. Every graph and every engine is held to that.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import onnx_ir as ir
import torch

from ...engines.text.task import TaskSpec
from ...errors import ExportError, FeedError
from ...graph.history import Refusal, StageRecord
from ...graph.model import CANONICAL_OPSET, Graph, reject_nan
from ...graph.tensors import Array, Feeds
from ..models.checkpoint import Checkpoint, first_line, load_checkpoint
from ..models.source import ModelSource
from .exported_graph import tidy
from .quiet import quiet_transformers
from .tasks import BATCH, SEQUENCE, TaskModule, choose_task, task_module

Attention = Literal["sdpa", "eager"]

_EXAMPLE_SHAPE = (3, 11)
"""[batch, sequence] the exporter traces: odd sizes that no dimension of a model equals."""


@dataclass(frozen=True)
class TorchReference:
    """The PyTorch model that an engine must answer like: float32, eager attention, no gradients.

    Attributes:
        module: takes and gives what the graph takes and gives.
        inputs: names of the inputs.
        outputs: names of the outputs, in order.
    """

    module: TaskModule = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the model.

        Args:
            feeds: int64 [batch, sequence] for every input.

        Returns:
            float32 arrays by output name.

        Raises:
            FeedError: when the feeds are not exactly the inputs.
            ExportError: when the model cannot take them, as ids beyond its vocabulary.
        """
        if set(feeds) != set(self.inputs):
            raise FeedError(
                f"feeds: expected exactly the inputs {sorted(self.inputs)}, got {sorted(feeds)}"
            )
        try:
            with torch.inference_mode():
                values = self.module(**{name: torch.tensor(feeds[name]) for name in self.inputs})
        except (IndexError, RuntimeError) as error:
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise ExportError(
                f"the PyTorch model itself fails on tokens of its tokenizer, fed {shapes}: "
                f"{first_line(error)}; check vocab_size and max_position_embeddings in config.json"
            ) from error
        return dict(zip(self.outputs, (value.numpy() for value in values), strict=True))

    def in_float64(self) -> TorchReference:
        """A copy that computes in float64, but for what the model itself casts to float32."""
        return replace(self, module=copy.deepcopy(self.module).double())


@dataclass(frozen=True, kw_only=True)
class Described:
    """A reference and what a text runtime must know to feed it.

    Attributes:
        reference: the PyTorch model.
        task_spec: its task.
        tokenizer: content of tokenizer.json.
    """

    reference: TorchReference
    task_spec: TaskSpec
    tokenizer: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What the export gives to the stages after it.

    Attributes:
        graph: opset 23, dynamic axes `batch` and `sequence`, one history record ``export``. Its
            weights lie in the memory of the reference's parameters.
        task_spec: what a text runtime must know.
        tokenizer: content of tokenizer.json.
        reference: the PyTorch model.
    """

    graph: Graph
    task_spec: TaskSpec
    tokenizer: bytes = field(repr=False)
    reference: TorchReference


def export(source: ModelSource, task: str = "auto", *, attn: Attention = "sdpa") -> Exported:
    """Turn a model into a graph.

    Args:
        source: from `resolve_model`.
        task: one of `TASKS`, or ``auto``: the first that fits, see `compiler.tasks`.
        attn: how attention is traced. ``sdpa`` gives one Attention node a layer. A model that has
            no sdpa, or whose sdpa the exporter cannot translate, is traced with ``eager``, and the
            history says so.

    Raises:
        ExportError: when the task does not fit or PyTorch cannot export the model.
        GraphError: when weights hold NaN or infinity.
        SourceError: when files of the model are damaged.
    """
    started = time.perf_counter()
    checkpoint, module = _load(source, task)
    spec = checkpoint.spec
    model, refusals = _to_onnx(source, checkpoint, module, attn)
    tidy(model, module)
    reject_nan(model, source.id)
    record = StageRecord(
        stage="export",
        seconds=time.perf_counter() - started,
        nodes_before=0,
        nodes_after=len(model.graph),
        refusals=refusals,
    )
    return Exported(
        graph=Graph(model, (record,)),
        task_spec=spec,
        tokenizer=checkpoint.tokenizer,
        reference=TorchReference(module, spec.inputs, spec.outputs),
    )


def load_reference(source: ModelSource, task: str = "auto") -> TorchReference:
    """The PyTorch model alone; its answers have the bits of those of `export`.

    Args:
        source: from `resolve_model`.
        task: as for `export`.

    Raises:
        ExportError: when the task does not fit.
        SourceError: when files of the model are damaged.
    """
    return load_described(source, task).reference


def load_described(source: ModelSource, task: str = "auto") -> Described:
    """The PyTorch model of `load_reference`, with its task and its tokenizer.

    Args:
        source: from `resolve_model`.
        task: as for `export`.

    Raises:
        ExportError: when the task does not fit.
        SourceError: when files of the model are damaged.
    """
    checkpoint, module = _load(source, task)
    spec = checkpoint.spec
    return Described(
        reference=TorchReference(module, spec.inputs, spec.outputs),
        task_spec=spec,
        tokenizer=checkpoint.tokenizer,
    )


def _load(source: ModelSource, task: str) -> tuple[Checkpoint, TaskModule]:
    checkpoint = load_checkpoint(source, choose_task(source, task))
    module = task_module(checkpoint.model, checkpoint.spec.task, checkpoint.modules)
    _share_layout(module)
    return checkpoint, module


def _share_layout(module: TaskModule) -> None:
    """Store linear weights [in, out], seen by PyTorch as their transpose.

    MatMul wants [in, out]. Laid out so, graph and PyTorch share one contiguous array, and no later
    stage has to copy it. Weights tied to an embedding stay as they are.
    """
    owners: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        owners[parameter.data_ptr()] = owners.get(parameter.data_ptr(), 0) + 1
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear) and owners[layer.weight.data_ptr()] == 1:
            layer.weight.data = layer.weight.data.t().contiguous().t()


def _to_onnx(
    source: ModelSource, checkpoint: Checkpoint, module: TaskModule, attn: Attention
) -> tuple[ir.Model, tuple[Refusal, ...]]:
    if attn == "eager":
        return _trace(source, module, checkpoint.spec), ()
    model = checkpoint.model
    try:
        _switch_attention(model, "sdpa")
        return _trace(source, module, checkpoint.spec), ()
    except (_NoSdpaError, ExportError) as error:
        reason = str(error)
    finally:
        _switch_attention(model, "eager")
    refusal = Refusal(
        "export-sdpa", type(model).__name__, f"{reason}; traced with eager attention instead"
    )
    return _trace(source, module, checkpoint.spec), (refusal,)


class _NoSdpaError(Exception):
    """The model cannot use scaled_dot_product_attention."""


def _switch_attention(model: Any, attn: Attention) -> None:
    try:
        with quiet_transformers():
            model.set_attn_implementation(attn)
    except ValueError as error:
        raise _NoSdpaError(first_line(error)) from error
    if model.config._attn_implementation != attn:  # noqa: SLF001 (transformers has no public name)
        raise _NoSdpaError("its attention in transformers is not switchable to sdpa")


def _trace(source: ModelSource, module: TaskModule, spec: TaskSpec) -> ir.Model:
    example = _example(spec, module)
    axes = {0: torch.export.Dim(BATCH), 1: torch.export.Dim(SEQUENCE)}
    try:
        with quiet_transformers(), torch.no_grad():
            program = torch.onnx.export(
                module,
                kwargs=example,
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                dynamic_shapes=dict.fromkeys(spec.inputs, axes),
                opset_version=CANONICAL_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the traced code raises
        raise ExportError(
            f"{source.id}: PyTorch {torch.__version__} cannot export it for the task "
            f"{spec.task!r}: {first_line(error.__cause__ or error)}"
        ) from error
    if program is None:
        raise ExportError(f"{source.id}: the PyTorch exporter returned nothing")
    return program.model


def _example(spec: TaskSpec, module: TaskModule) -> dict[str, Any]:
    batch, sequence = _EXAMPLE_SHAPE
    words = module.model.get_input_embeddings().num_embeddings
    ids = torch.arange(batch * sequence).reshape(batch, sequence) % words
    mask = torch.ones_like(ids)
    mask[1:, sequence - 3 :] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: feeds[name] for name in spec.inputs}
