"""Load configuration, tokenizer and weights of a resolved model through transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch

from ...engines.text.task import Task, TaskSpec
from ...errors import ExportError
from ..exporting.quiet import quiet_transformers
from ..exporting.task_spec import make_task_spec
from ..exporting.tasks import auto_class, is_base_task
from .checkpoint_files import has_tokenizer
from .random_tokenizer import random_tokenizer_json
from .sentence import SentenceModules, read_sentence_modules
from .source import RANDOM_SEED, ModelSource

_LAYER = re.compile(r"\.\d+\.")


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
        _refuse_decoder(source, task, config, auto_class(task, config.model_type))
        modules = read_sentence_modules(source) if task == "embedding" else SentenceModules()
        tokenizer = _load_tokenizer(source, config)
        model = _random(config, task) if source.weights == "random" else _load(source, config, task)
        model.eval().requires_grad_(False)
    return Checkpoint(
        model=model,
        spec=make_task_spec(source, task, model, tokenizer, modules),
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


def _refuse_decoder(source: ModelSource, task: Task, config: Any, loader: Any) -> None:
    from transformers import AutoModel

    if loader is AutoModel and config.is_encoder_decoder:
        raise ExportError(
            f"{source.id}: {config.model_type} is an encoder-decoder, whose decoder wants inputs "
            f"that the task {task!r} does not have; expected an encoder such as bert"
        )


def _known_types() -> Mapping[str, Any]:
    from transformers import CONFIG_MAPPING

    known: Mapping[str, Any] = CONFIG_MAPPING
    return known


def _load_tokenizer(source: ModelSource, config: Any) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if source.folder is None or (source.weights == "random" and not has_tokenizer(source.folder)):
        from tokenizers import Tokenizer

        content = random_tokenizer_json(config.to_dict() | dict(source.config))
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(content.decode()),
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **{
                f"{name}_token": f"[{name.upper()}]"
                for name in ("pad", "unk", "cls", "sep", "mask")
            },
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
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except Exception as error:  # one boundary: transformers, safetensors and torch raise here
        raise ExportError(
            f"{source.id}: transformers cannot load it for the task {task!r}: {first_line(error)}"
        ) from error
    if info["mismatched_keys"]:
        name, held, wanted = min(info["mismatched_keys"])
        raise ExportError(
            f"{source.id}: config.json does not describe the weights: {name!r} is {list(held)} in "
            f"the file and {list(wanted)} by config.json; get both from the same checkpoint"
        )
    _refuse_unread_layers(source, model, info["unexpected_keys"])
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


def _refuse_unread_layers(source: ModelSource, model: Any, unread: Iterable[str]) -> None:
    """Heads may stay unread; layers beyond those that config.json counts mean a wrong file."""
    known = {_LAYER.sub(".*.", name) for name in model.state_dict()}
    layers = sorted(name for name in unread if _LAYER.search(name) and _is_known(name, known))
    if layers or getattr(model.config, "num_hidden_layers", 1) < 1:
        found = f"{len(layers)} weights such as {layers[0]!r}" if layers else "no layer to fill"
        raise ExportError(
            f"{source.id}: config.json counts {model.config.num_hidden_layers} layers, which "
            f"leaves {found}; get config.json and the weights from the same checkpoint"
        )


def _is_known(name: str, patterns: Set[str]) -> bool:
    """Whether the model has the weight in another layer, with or without the name of the model."""
    pattern = _LAYER.sub(".*.", name)
    bare = pattern.partition(".")[2]
    return pattern in patterns or bare in patterns


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
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}" if text else type(error).__name__
