"""The sentence-transformers files of a model: pooling, norm, length, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import ExportError
from .aliases import ALIASES
from .checkpoint_files import read_json, read_json_object
from .source import ModelSource

MODULES_FILE = "modules.json"

Pooling = Literal["mean", "cls"]

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of 1_Pooling/config.json before sentence-transformers 6."""


@dataclass(frozen=True, kw_only=True)
class SentenceModules:
    """What a sentence-transformers model does around its transformer.

    The defaults are what sentence-transformers does with a plain transformer.

    Attributes:
        pooling: mean over the tokens that are not padding, or the first token.
        normalize: whether the vector ends with L2 norm 1.
        max_tokens: ``max_seq_length``; None when the files do not limit it.
        lowercase: the text is lowered before it is tokenised.
        prompts: prompt name -> text put before an input.
        default_prompt: the prompt used when the caller names none.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def is_sentence_model(source: ModelSource) -> bool:
    """Whether the model came with sentence-transformers files that pool."""
    if source.folder is None:
        return source.alias is not None and ALIASES[source.alias].pooling is not None
    return any(kind == "Pooling" for kind, _ in _modules(source.folder))


def read_sentence_modules(source: ModelSource) -> SentenceModules:
    """Read the sentence-transformers files, or the defaults where there are none.

    Raises:
        ExportError: when they ask for a module or a pooling that is not supported.
        SourceError: when a file is damaged.
    """
    if source.folder is None:
        return _of_alias(source.alias)
    folder = source.folder
    modules = _modules(folder)
    if not modules:
        return SentenceModules()
    kinds = [kind for kind, _ in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ExportError(
            f"{folder / MODULES_FILE}: expected the modules Transformer, Pooling and, at most, "
            f"Normalize, got {', '.join(kinds)}{_named(unknown)}; build with --task "
            "feature-extraction and do the rest yourself"
        )
    settings = _transformer_settings(folder, modules[0][1])
    prompts = _optional(folder / "config_sentence_transformers.json")
    return SentenceModules(
        pooling=_pooling(folder / modules[1][1] / "config.json", prompts),
        normalize="Normalize" in kinds,
        max_tokens=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case", False)),
        prompts=prompts.get("prompts") or {},
        default_prompt=prompts.get("default_prompt_name"),
    )


def _of_alias(name: str | None) -> SentenceModules:
    alias = ALIASES[name] if name else None
    if alias is None or alias.pooling is None:
        return SentenceModules()
    return SentenceModules(pooling=alias.pooling, normalize=True, max_tokens=alias.max_tokens)


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(class name, sub-folder) of each module, in order; empty without modules.json."""
    if not (folder / MODULES_FILE).is_file():
        return []
    entries = read_json(folder / MODULES_FILE)
    try:
        return [(entry["type"].rpartition(".")[2], entry["path"]) for entry in entries]
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"{folder / MODULES_FILE}: expected a list of objects with 'type' and 'path', "
            f"got {entries!r}"
        ) from error


def _transformer_settings(folder: Path, path: str) -> dict[str, Any]:
    if path not in ("", "."):
        raise ExportError(
            f"{folder / MODULES_FILE}: expected the Transformer beside modules.json, got it in "
            f"{path!r}; save the model again with a sentence-transformers of this decade"
        )
    settings: dict[str, Any] = {}
    for file in sorted(folder.glob("sentence_*_config.json")):
        settings |= read_json_object(file)
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ExportError(
            f"{folder}: expected a Transformer module for feature-extraction, got {task!r}"
        )
    return settings


def _pooling(path: Path, prompts: Mapping[str, Any]) -> Pooling:
    config = read_json_object(path)
    legacy = [mode for key, mode in _LEGACY_MODES.items() if config.get(key)]
    modes = config.get("pooling_mode", legacy or ["mean"])
    modes = [modes] if isinstance(modes, str) else list(modes)
    if not config.get("include_prompt", True) and any((prompts.get("prompts") or {}).values()):
        raise ExportError(
            f"{path}: include_prompt is false, so the prompt must be left out of the mean, which "
            "is not supported; build with --task feature-extraction and pool yourself"
        )
    if modes == ["mean"]:
        return "mean"
    if modes == ["cls"]:
        return "cls"
    raise ExportError(
        f"{path}: expected the pooling 'mean' or 'cls', got {' + '.join(modes)!r}; build with "
        "--task feature-extraction and pool yourself"
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}


def _named(modules: list[str]) -> str:
    return f" ({', '.join(modules)} is not supported)" if modules else ""
