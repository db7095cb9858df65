"""Load configuration, tokenizer and weights of a resolved model through transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..engines.text.task import Task, TaskSpec, activation_of
from ..errors import ExportError
from .quiet import quiet_transformers
from .random_tokenizer import random_tokenizer_json
from .sentence import SentenceModules, read_sentence_modules
from .source import RANDOM_SEED, ModelSource
from .tasks import OUTPUTS, auto_class, is_base_task

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

_UNLIMITED = 10**9
"""transformers writes 1e30 as model_max_length for "not limited"."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model in memory, ready to be exported.

    Attributes:
        model: transformers model in float32, evaluation mode, eager attention.
        spec: what a text runtime must know.
        modules: how sentences are pooled.
        tokenizer: content of tokenizer.json, without truncation and padding.
    """

    model: Any
    spec: TaskSpec
    modules: SentenceModules
    tokenizer: bytes


def load_checkpoint(source: ModelSource, task: Task) -> Checkpoint:
    """Load a model for a task.

    Raises:
        ExportError: when transformers does not know or cannot load the model, or the checkpoint
            holds no trained head for the task.
        SourceError: when a sentence-transformers file is damaged.
    """
    with quiet_transformers():
        config = _load_config(source)
        modules = read_sentence_modules(source) if task == "embedding" else SentenceModules()
        tokenizer = _load_tokenizer(source, config)
        model = _random(config, task) if source.weights == "random" else _load(source, config, task)
        model.eval().requires_grad_(False)
    return Checkpoint(
        model=model,
        spec=_task_spec(source, task, model, tokenizer, modules),
        modules=modules,
        tokenizer=_tokenizer_json(tokenizer),
    )


def _load_config(source: ModelSource) -> Any:
    from transformers import AutoConfig

    model_type = source.config.get("model_type")
    if "auto_map" in source.config and model_type not in _known_types():
        raise ExportError(
            f"{source.id}: its config.json brings its own Python code (auto_map), which is never "
            "run; expected an architecture that transformers itself contains"
        )
    try:
        if source.folder is not None:
            return AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        values = {key: value for key, value in source.config.items() if key != "model_type"}
        return AutoConfig.for_model(model_type, **values)
    except Exception as error:  # transformers raises KeyError, ValueError, OSError and its own
        raise ExportError(
            f"{source.id}: transformers cannot read its config.json (model_type {model_type!r}): "
            f"{first_line(error)}"
        ) from error


def _known_types() -> Mapping[str, Any]:
    from transformers import CONFIG_MAPPING

    known: Mapping[str, Any] = CONFIG_MAPPING
    return known


def _load_tokenizer(source: ModelSource, config: Any) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if source.folder is None or (source.weights == "random" and not _has_tokenizer(source)):
        from tokenizers import Tokenizer

        content = random_tokenizer_json(config.to_dict() | dict(source.config))
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(content.decode()),
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.folder, config=config, trust_remote_code=False
        )
    except Exception as error:  # conversion of slow tokenizers fails in many ways
        raise ExportError(
            f"{source.id}: transformers cannot load its tokenizer: {first_line(error)}; save a "
            "fast one (tokenizer.json) with tokenizer.save_pretrained(folder)"
        ) from error
    if not tokenizer.is_fast:
        raise ExportError(
            f"{source.id}: expected a tokenizer that can be written as tokenizer.json, got the "
            f"Python-only {type(tokenizer).__name__}"
        )
    return tokenizer


def _has_tokenizer(source: ModelSource) -> bool:
    from .checkpoint_files import TOKENIZER_FILES

    return source.folder is not None and any(
        (source.folder / name).is_file() for name in TOKENIZER_FILES
    )


def _load(source: ModelSource, config: Any, task: Task) -> Any:
    loader = auto_class(task, config.model_type)
    try:
        model, info = loader.from_pretrained(
            source.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # one boundary: transformers, safetensors and torch raise here
        raise ExportError(
            f"{source.id}: transformers cannot load it for the task {task!r}: {first_line(error)}"
        ) from error
    missing = sorted(
        key for key in info["missing_keys"] if not (is_base_task(task) and "pooler." in key)
    )
    if missing:
        raise ExportError(
            f"{source.id}: the checkpoint ({', '.join(config.architectures or ['?'])}) does not "
            f"fit the task {task!r}: it lacks {len(missing)} weights, among them {missing[0]!r}; "
            "choose another --task, or a checkpoint trained for this one"
        )
    return model


def _random(config: Any, task: Task) -> Any:
    """Seeded weights, with biases and norms that are not all 0 and 1, which would hide errors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        try:
            model = auto_class(task, config.model_type).from_config(
                config, dtype=torch.float32, attn_implementation="eager"
            )
        except ValueError as error:
            raise ExportError(
                f"transformers has no class of the type {config.model_type!r} for the task "
                f"{task!r}: {first_line(error)}"
            ) from error
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def _task_spec(
    source: ModelSource, task: Task, model: Any, tokenizer: Any, modules: SentenceModules
) -> TaskSpec:
    config = model.config
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
        limits[1] -= config["pad_token_id"] + 1
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


def _tokenizer_json(tokenizer: Any) -> bytes:
    """tokenizer.json without the fixed padding and truncation that some checkpoints carry."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    text: str = plain.to_str()
    return text.encode()


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__
