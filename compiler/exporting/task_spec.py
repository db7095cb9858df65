"""What a text runtime must know about a model, read from its configuration and its tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ...engines.text.task import Task, TaskSpec, activation_of
from ...errors import ExportError
from ..models.sentence import SentenceModules
from ..models.source import ModelSource
from .tasks import OUTPUTS

_OFFSET_TYPES = (
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Types whose positions start at pad_token_id + 1, which costs that many positions."""

_FIXED_OFFSETS: Mapping[str, int] = {"mpnet": 1}
"""Types whose positions start behind a number of their own, whatever the padding token is."""

_UNLIMITED = 10**9
"""transformers writes 1e30 as model_max_length for "not limited"."""


def make_task_spec(
    source: ModelSource, task: Task, model: Any, tokenizer: Any, modules: SentenceModules
) -> TaskSpec:
    """Gather the task spec.

    Args:
        source: where the model comes from, for messages.
        task: the chosen task.
        model: transformers model.
        tokenizer: transformers fast tokenizer.
        modules: what the sentence-transformers files say.

    Raises:
        ExportError: when padding, the length limit or the mask token is nowhere defined.
    """
    config = model.config
    if task == "fill-mask" and tokenizer.mask_token_id is None:
        raise ExportError(
            f"{source.id}: the task 'fill-mask' needs a mask token, which its tokenizer lacks; "
            "set mask_token in tokenizer_config.json, or choose another --task"
        )
    labels = task in ("sequence-classification", "token-classification")
    embeds = task == "embedding"
    return TaskSpec(
        task=task,
        inputs=_inputs(model, tokenizer),
        outputs=OUTPUTS[task],
        max_tokens=_max_tokens(source, config.to_dict(), tokenizer, modules),
        pad_token_id=_pad_token_id(source, tokenizer, config),
        pad_token_type_id=tokenizer.pad_token_type_id,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        lowercase=modules.lowercase,
        clean_up_spaces=bool(tokenizer.clean_up_tokenization_spaces),
        cls_token_id=tokenizer.cls_token_id,
        unk_token_id=tokenizer.unk_token_id,
        dimension=config.hidden_size if embeds else None,
        pooling=modules.pooling if embeds else None,
        normalized=modules.normalize if embeds else None,
        prompts=modules.prompts,
        default_prompt=modules.default_prompt,
        labels=_labels(config) if labels else (),
        activation=activation_of(config.problem_type, config.num_labels)
        if task == "sequence-classification"
        else "softmax",
        mask_token=tokenizer.mask_token if task == "fill-mask" else None,
        mask_token_id=tokenizer.mask_token_id if task == "fill-mask" else None,
    )


def _inputs(model: Any, tokenizer: Any) -> tuple[str, ...]:
    accepted = inspect.signature(model.forward).parameters
    names = ["input_ids", "attention_mask"]
    kinds = model.config.to_dict().get("type_vocab_size") or 0
    has_types = "token_type_ids" in accepted and "token_type_ids" in tokenizer.model_input_names
    # A table of one row adds the same vector to every token, whatever is fed.
    if has_types and kinds > 1:
        names.append("token_type_ids")
    return tuple(names)


def _max_tokens(
    source: ModelSource, config: Mapping[str, Any], tokenizer: Any, modules: SentenceModules
) -> int:
    limits = [modules.max_tokens, config.get("max_position_embeddings"), config.get("n_positions")]
    if config["model_type"] in _OFFSET_TYPES and limits[1]:
        limits[1] -= _FIXED_OFFSETS.get(config["model_type"], config["pad_token_id"]) + 1
    if tokenizer.model_max_length < _UNLIMITED:
        limits.append(int(tokenizer.model_max_length))
    known = [limit for limit in limits if limit]
    if not known:
        raise ExportError(
            f"{source.id}: neither tokenizer_config.json (model_max_length) nor config.json "
            "(max_position_embeddings) says how long a text may be; set model_max_length"
        )
    return min(known)


def _pad_token_id(source: ModelSource, tokenizer: Any, config: Any) -> int:
    for value in (tokenizer.pad_token_id, config.pad_token_id):
        if isinstance(value, int):
            return value
    raise ExportError(
        f"{source.id}: expected a padding token in its tokenizer or pad_token_id in config.json, "
        "got neither; texts of different lengths cannot share a batch"
    )


def _labels(config: Any) -> tuple[str, ...]:
    names: Mapping[int, str] = config.id2label
    return tuple(str(names.get(index, f"LABEL_{index}")) for index in range(config.num_labels))
