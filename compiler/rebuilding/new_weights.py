"""Other weights of a model, as a model: a folder of its own, or one file beside its old files."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ...engines.bundle import Bundle
from ...errors import BuildError, SourceError
from ..models.aliases import ALIASES, DEMO_ALIAS
from ..models.checkpoint_files import (
    DESCRIPTION_PATTERNS,
    WEIGHTS_FILE,
    check_safetensors,
    weight_files,
)
from ..models.source import ModelSource, resolve_model

_FLOATS = ("F32", "F16", "BF16")
"""What becomes float32 without loss; a checkpoint may be kept in any of them."""

Header = Mapping[str, tuple[str, tuple[int, ...]]]


@contextmanager
def new_source(bundle: Bundle, weights: Path, model: str | None) -> Iterator[ModelSource]:
    """The model to export; a file of weights gets the old model's other files for that long.

    Args:
        bundle: whose weights are replaced.
        weights: folder of a model, or a safetensors file.
        model: where the old model is now, for a file; None for the id in the bundle.

    Raises:
        SourceError: when the weights, or the old model, cannot be read.
        BuildError: when the file's tensors are not those of the old model, by name, shape or dtype.
    """
    if weights.is_dir():
        yield resolve_model(str(weights.resolve()))
        return
    if not weights.is_file():
        raise SourceError(
            f"{weights}: expected a safetensors file or the folder of a model, found nothing"
        )
    check_safetensors(weights)
    folder = _old_folder(bundle, model)
    _compare(_headers(weight_files(folder)), _header(weights), weights)
    with TemporaryDirectory(prefix="fuselage-refit-") as scratch:
        whole = Path(scratch) / "model"
        for file in sorted({f for pattern in DESCRIPTION_PATTERNS for f in folder.glob(pattern)}):
            target = whole / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        try:
            (whole / WEIGHTS_FILE).symlink_to(weights.resolve())
        except OSError:  # a file system without links
            shutil.copyfile(weights, whole / WEIGHTS_FILE)
        yield replace(resolve_model(str(whole)), id=weights.stem)


def _old_folder(bundle: Bundle, model: str | None) -> Path:
    """The folder of the model the bundle was built from; a file needs its config and tokenizer."""
    held = bundle.manifest.model
    is_demo = held.id == ALIASES[DEMO_ALIAS].hub_id
    name = model or (DEMO_ALIAS if is_demo else held.id)
    revision = held.revision if model is None and not is_demo else None
    try:
        source = resolve_model(name, revision=revision)
    except SourceError as error:
        raise SourceError(
            f"a file of weights needs the config and tokenizer of the model {held.id!r} that the "
            f"bundle was built from: {error}; give its folder with --model, or --weights the "
            "folder of the new model"
        ) from error
    if source.digest != held.digest or source.folder is None:
        raise BuildError(
            f"--model {name}: expected the model that the bundle was built from, of digest "
            f"{held.digest[:12]}..., got {source.digest[:12]}...; give the folder it was built "
            "from, or --weights the folder of the new model"
        )
    return source.folder


def _compare(old: Header, new: Header, where: Path) -> None:
    """Names, shapes and dtypes; all that differs in one message."""
    missing, extra = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    faults = [f"{name} is missing" for name in missing] + [f"{name} is not of it" for name in extra]
    for name in sorted(old.keys() & new.keys()):
        (dtype, shape), (got, size) = old[name], new[name]
        same = dtype == got or (dtype in _FLOATS and got in _FLOATS)
        if shape != size or not same:
            faults.append(f"{name}: expected {_shown(dtype, shape)}, got {_shown(got, size)}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise BuildError(
            f"{where}: expected the {len(old)} tensors of the model the bundle was built from: "
            f"{'; '.join(faults[:5])}{more}; save them with model.save_pretrained(folder) of the "
            "same class, or build a bundle of the new model"
        )


def _headers(files: tuple[Path, ...]) -> Header:
    return {name: entry for file in files for name, entry in _header(file).items()}


def _header(file: Path) -> Header:
    """Tensors of a safetensors file that `check_safetensors` found sound."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        content = json.loads(opened.read(length))
    return {
        name: (str(entry["dtype"]), tuple(entry["shape"]))
        for name, entry in content.items()
        if name != "__metadata__"
    }


def _shown(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype}{list(shape)}"
