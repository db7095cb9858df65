"""Files of a bundle, held to its manifest before anything reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import BundleError
from .manifest import MANIFEST, FileEntry, Manifest
from .plain_file import plain_file

_MANIFEST_BYTES = 16 << 20


def read_manifest(root: Path) -> Manifest:
    """The manifest of the bundle in a folder.

    Raises:
        BundleError: when it is missing, damaged, or no file of the folder.
    """
    path = root / MANIFEST
    try:
        if plain_file(root, path).st_size > _MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {_MANIFEST_BYTES:,} bytes; not a manifest")
        text = path.read_bytes().decode("ascii")
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: damaged: {error}; copy or build the bundle again") from error
    return Manifest.from_json(text, str(path))


def check_size(root: Path, name: str, entry: FileEntry) -> None:
    """Check that a file is there, in the bundle, and as large as it should be.

    Raises:
        BundleError: naming the file.
    """
    path = root / name
    try:
        found = plain_file(root, path)
    except OSError as error:
        raise BundleError(
            f"{path}: the manifest lists it, but it is missing ({error.strerror}); "
            "copy or build the bundle again"
        ) from error
    if found.st_size != entry.bytes:
        raise BundleError(
            f"{path}: expected a file of {entry.bytes:,} bytes, found {found.st_size:,}; "
            "it is truncated or damaged, copy or build the bundle again"
        )


def check_hash(path: Path, entry: FileEntry) -> None:
    """Check what a file holds.

    Raises:
        BundleError: naming the file.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    if digest != entry.sha256:
        raise BundleError(
            f"{path}: sha256 is {digest[:12]}..., the manifest says {entry.sha256[:12]}...; "
            "the file is damaged, copy or build the bundle again"
        )
