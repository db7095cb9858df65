"""Fetch a model from the Hugging Face hub, or find it in the hub's cache."""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ...errors import MissingPackageError, SourceError
from ..exporting.quiet import quiet
from .aliases import ALIASES, alias_of
from .checkpoint_files import (
    DESCRIPTION_PATTERNS,
    WEIGHT_PATTERNS,
    check_folder,
    has_tokenizer,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Snapshot:
    """A model in the hub's cache.

    Attributes:
        folder: the snapshot folder.
        revision: commit hash.
    """

    folder: Path
    revision: str


def fetch_snapshot(hub_id: str, *, revision: str | None, with_weights: bool) -> Snapshot:
    """The files of a model, downloaded only when the cache does not hold them.

    Without a revision, or with a commit hash, a complete copy in the cache is used as it is and
    nothing is asked of the network: builds are reproducible and fast. A branch or tag is looked up
    on the hub, so ``revision="main"`` brings the newest state. HF_ENDPOINT, HF_HOME,
    HF_HUB_OFFLINE, HF_TOKEN and a stored login are respected.

    Args:
        hub_id: for example ``BAAI/bge-small-en-v1.5``.
        revision: branch, tag or commit hash; None for what is cached, else the default branch.
        with_weights: False when only the architecture and the tokenizer are wanted.

    Raises:
        SourceError: when the model is neither on the hub nor in the cache, access is denied, or it
            holds no safetensors.
        MissingPackageError: without huggingface_hub.
    """
    if revision is None or _COMMIT.fullmatch(revision):
        cached = _snapshot(hub_id, revision, with_weights=with_weights, offline=True)
        if cached is not None and _is_complete(cached.folder, with_weights=with_weights):
            return cached
    snapshot = _snapshot(hub_id, revision, with_weights=with_weights, offline=False)
    assert snapshot is not None
    if with_weights and not any(any(snapshot.folder.glob(name)) for name in WEIGHT_PATTERNS):
        raise SourceError(
            f"{hub_id} at {snapshot.revision}: expected weights as safetensors, got none; pickles "
            "(pytorch_model.bin) can run code when they are read and are never fetched; give a "
            "revision that has safetensors (the hub's conversions are at refs/pr/1 and the like), "
            "or convert the model once with save_pretrained and give the folder"
        )
    check_folder(snapshot.folder, with_weights=with_weights)
    return snapshot


def _snapshot(
    hub_id: str, revision: str | None, *, with_weights: bool, offline: bool
) -> Snapshot | None:
    try:
        import huggingface_hub
        from huggingface_hub import errors
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise MissingPackageError("huggingface-hub", "compile", f"fetching {hub_id}") from error
    if not sys.stderr.isatty():
        disable_progress_bars()
    patterns = DESCRIPTION_PATTERNS + (WEIGHT_PATTERNS if with_weights else ())
    try:
        with quiet():
            folder = huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=offline,
                library_name="fuselage",
            )
    except errors.LocalEntryNotFoundError as error:
        if offline:
            return None
        raise SourceError(_unreachable(hub_id, error)) from error
    except errors.GatedRepoError as error:
        raise SourceError(
            f"{hub_id}: the hub grants access to this model only after its terms are accepted; "
            f"accept them on its page, then set HF_TOKEN or log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(
            f"{hub_id}: has no revision {revision!r}; expected a branch, tag or commit hash"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(_unreachable(hub_id, error, "no such public model there")) from error
    except Exception as error:  # httpx, OSError on a full disk, validation: one boundary
        raise SourceError(_unreachable(hub_id, error)) from error
    return Snapshot(Path(folder), Path(folder).name)


def _is_complete(folder: Path, *, with_weights: bool) -> bool:
    # Other tools leave snapshots with, say, config.json alone.
    try:
        check_folder(folder, with_weights=with_weights)
    except SourceError:
        return False
    return has_tokenizer(folder)


def _unreachable(hub_id: str, error: BaseException, reason: str | None = None) -> str:
    from huggingface_hub import constants

    cause = error.__cause__ or error
    lines = (str(cause) or type(cause).__name__).strip().splitlines()
    reason = reason or ("HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else lines[0][:160])
    alias = alias_of(hub_id)
    known = ", ".join(ALIASES)
    random = (
        "add `--weights random` (the same architecture, random weights)"
        if alias
        else f"use `--weights random` with an architecture known here ({known})"
    )
    close = difflib.get_close_matches(hub_id, ALIASES, n=1)
    hint = f" (did you mean the alias `{close[0]}`?)" if close else ""
    return (
        f"{hub_id}{hint}: can neither be downloaded from {constants.ENDPOINT} ({reason}) nor found "
        f"in the cache {constants.HF_HUB_CACHE}; three ways on: give a local folder with "
        f"config.json, model.safetensors and tokenizer.json, use the model `minilm`, which needs "
        f"no network, or {random}"
    )
