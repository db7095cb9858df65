"""Tasks: which one fits a checkpoint, which class loads it, what its graph takes and gives.

What ``auto`` picks, first match wins:

1. sentence-transformers files with a Pooling module: ``embedding``;
2. an architecture in config.json that ends in ForSequenceClassification, ForTokenClassification,
   ForQuestionAnswering or ForMaskedLM: that task;
3. a plain transformer such as BertModel: ``feature-extraction``. Nothing says how such a model
   wants to be pooled; with an explicit ``embedding`` it is the mean without a norm, as
   sentence-transformers does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...engines.text.task import TASKS, Task
from ...errors import ExportError
from ..models.sentence import SentenceModules, is_sentence_model
from ..models.source import ModelSource

BATCH, SEQUENCE = "batch", "sequence"
"""Names of the dynamic axes of every input and output."""

OUTPUTS: Mapping[Task, tuple[str, ...]] = {
    "embedding": ("sentence_embedding",),
    "feature-extraction": ("last_hidden_state",),
    "sequence-classification": ("logits",),
    "token-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
    "fill-mask": ("logits",),
}

_SUFFIXES: Mapping[str, Task] = {
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "EncoderModel": "feature-extraction",
    "Model": "feature-extraction",
}

_ENCODER_TYPES = ("t5", "mt5", "umt5")
"""Encoder-decoder types of which the base tasks take the encoder alone."""


def choose_task(source: ModelSource, task: str) -> Task:
    """The task to export.

    Args:
        source: the model.
        task: one of `TASKS`, or ``auto``.

    Raises:
        ExportError: when the task is unknown, the checkpoint has the head of another one, or
            ``auto`` cannot tell.
    """
    for known in TASKS:
        if task == known:
            _refuse_other_head(source, known)
            return known
    if task != "auto":
        raise ExportError(f"task: expected auto or one of {', '.join(TASKS)}, got {task!r}")
    if is_sentence_model(source):
        return "embedding"
    architectures = source.config.get("architectures") or []
    for name in architectures:
        for suffix, found in _SUFFIXES.items():
            if str(name).endswith(suffix):
                return found
    raise ExportError(
        f"{source.id}: no task fits the architectures {architectures} of its config.json; "
        f"give one with --task: {', '.join(TASKS)}"
    )


def _refuse_other_head(source: ModelSource, task: Task) -> None:
    """Heads of different tasks share names and shapes, so loading one as another raises nothing."""
    names = [str(name) for name in source.config.get("architectures") or ()]
    suffixes = [suffix for suffix in _SUFFIXES if any(name.endswith(suffix) for name in names)]
    heads = {_SUFFIXES[suffix] for suffix in suffixes} - {"feature-extraction"}
    if source.weights == "random" or is_base_task(task) or not heads or task in heads:
        return
    raise ExportError(
        f"{source.id}: the checkpoint ({', '.join(names)}) was trained for "
        f"{' and '.join(sorted(heads))}, so its head does not fit the task {task!r}; leave out "
        "--task, or give a checkpoint trained for this one"
    )


def is_base_task(task: Task) -> bool:
    """Whether the task needs the transformer alone, without a trained head."""
    return task in ("embedding", "feature-extraction")


def auto_class(task: Task, model_type: str) -> Any:
    """The transformers class that loads a checkpoint for a task."""
    import transformers

    if is_base_task(task) and model_type in _ENCODER_TYPES:
        return transformers.AutoModelForTextEncoding
    classes: Mapping[Task, Any] = {
        "embedding": transformers.AutoModel,
        "feature-extraction": transformers.AutoModel,
        "sequence-classification": transformers.AutoModelForSequenceClassification,
        "token-classification": transformers.AutoModelForTokenClassification,
        "question-answering": transformers.AutoModelForQuestionAnswering,
        "fill-mask": transformers.AutoModelForMaskedLM,
    }
    return classes[task]


class TaskModule(torch.nn.Module):
    """A transformers model with exactly the inputs and outputs of its task.

    Attributes:
        model: the transformers model.
        head: from the model's answer to the outputs of the task, in the order of `OUTPUTS`.
    """

    model: Any
    head: torch.nn.Module

    def __init__(self, model: torch.nn.Module, head: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Run the model.

        Args:
            input_ids: int64 [batch, sequence].
            attention_mask: int64 [batch, sequence], 0 at padding.
            token_type_ids: int64 [batch, sequence]; None for models without.
        """
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        answer = self.model(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types
        )
        outputs: tuple[torch.Tensor, ...] = self.head(answer, attention_mask)
        return outputs


class SelectOutputs(torch.nn.Module):
    """The named fields of the model's answer."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def forward(self, answer: Any, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """Pick the outputs of the task."""
        return tuple(answer[name] for name in self.names)


class PoolSentence(torch.nn.Module):
    """One vector a text: pooling and norm as sentence-transformers computes them.

    Mean: sum over the tokens under the mask / max(number of tokens, 1e-9). Norm: x / max(|x|,
    1e-12).
    """

    def __init__(self, modules: SentenceModules) -> None:
        super().__init__()
        self.pooling = modules.pooling
        self.normalize = modules.normalize

    def forward(self, answer: Any, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pool hidden states [batch, sequence, hidden] to [batch, hidden]."""
        hidden = answer.last_hidden_state
        vector = hidden[:, 0] if self.pooling == "cls" else _masked_mean(hidden, attention_mask)
        if self.normalize:
            vector = torch.nn.functional.normalize(vector, p=2.0, dim=-1, eps=1e-12)
        return (vector,)


def task_module(model: torch.nn.Module, task: Task, modules: SentenceModules) -> TaskModule:
    """Wrap a model for a task, in evaluation mode."""
    head = PoolSentence(modules) if task == "embedding" else SelectOutputs(OUTPUTS[task])
    return TaskModule(model, head).eval()


def _masked_mean(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
