"""One kept product: a folder of files, and ``entry.json`` that says what they are and their hashes.

stages/STAGE/KEY/entry.json    key in clear, facts, sha256 and size of every file, its own digest
stages/STAGE/KEY/...           the files
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ...engines.manifest import FileEntry, check_name
from ...engines.strict_json import StrictObject, canonical_json, json_digest
from ...errors import BundleError
from .key import SCHEMA, StageKey

ENTRY = "entry.json"

_CHUNK = 1 << 20


class DamagedEntryError(Exception):
    """An entry that is not what was kept; the message says where and how."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A sound ``entry.json``; the files are checked when they are copied.

    Attributes:
        folder: where it lies.
        key: what the product depends on.
        facts: what the stage says about its product, JSON.
        files: path below the folder -> hash and size.
        created: seconds since the epoch.
    """

    folder: Path
    key: StageKey
    facts: Mapping[str, Any] = field(repr=False)
    files: Mapping[str, FileEntry]
    created: float

    @classmethod
    def read(cls, folder: Path) -> Entry:
        """Read the entry in a folder.

        Raises:
            FileNotFoundError: when there is none.
            DamagedEntryError: when it was changed, cut short, or written by another fuselage.
        """
        path = folder / ENTRY
        try:
            text = path.read_text(encoding="ascii")
            return _parse(folder, StrictObject(json.loads(text), str(path)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
        except (OSError, ValueError, TypeError, RecursionError, BundleError) as error:
            raise DamagedEntryError(f"{path}: expected the entry of a stage: {error}") from error

    def copy(self, name: str, destination: Path) -> None:
        """Copy a file out, hashing what is written; a file that is wrong is not left there.

        Raises:
            DamagedEntryError: when the file is missing, cannot be read or is not what was kept.
            OSError: when the destination cannot be written.
        """
        wanted = self.files[name]
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = (self.folder / name).open("rb")
        except OSError as error:
            raise DamagedEntryError(f"{self.folder / name}: {error.strerror}") from error
        try:
            with source:
                found = _copy(_from_cache(source), destination)
        except DamagedEntryError:
            destination.unlink(missing_ok=True)
            raise
        if found != wanted:
            destination.unlink(missing_ok=True)
            raise DamagedEntryError(
                f"{self.folder / name}: expected {wanted.bytes:,} bytes of sha256 "
                f"{wanted.sha256[:12]}..., got {found.bytes:,} bytes of {found.sha256[:12]}..."
            )

    def touch(self) -> None:
        """Remember that it was used just now, where the folder may be written."""
        try:
            os.utime(self.folder / ENTRY)
        except OSError:
            return


def write_entry(
    folder: Path,
    key: StageKey,
    facts: Mapping[str, Any],
    source: Path,
    files: Mapping[str, FileEntry],
) -> None:
    """Fill an empty folder with a product.

    Args:
        folder: to fill.
        key: of the product.
        facts: JSON.
        source: folder of the product.
        files: what to copy from it, as `hash_files` found it.

    Raises:
        DamagedEntryError: when a file changed since it was hashed.
        BundleError: when the facts are not JSON.
        OSError: when the disk is full, or the folder cannot be written.
    """
    body = {
        "schema": SCHEMA,
        "stage": key.stage,
        "model": key.model,
        "target": key.target,
        "key": dict(key.fields),
        "facts": dict(facts),
        "files": {name: vars(file) for name, file in files.items()},
        "created": time.time(),
    }
    text = canonical_json({**body, "digest": json_digest(body)})
    for name, file in files.items():
        destination = folder / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("rb") as opened:
            if _copy(_chunks(opened), destination) != file:
                raise DamagedEntryError(f"{source / name}: changed while it was kept")
    (folder / ENTRY).write_text(text, encoding="ascii", newline="\n")


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Hash and size of every file below a folder, by sorted path."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as opened:
                sha = hashlib.file_digest(opened, "sha256").hexdigest()
                size = os.fstat(opened.fileno()).st_size
            files[path.relative_to(folder).as_posix()] = FileEntry(sha256=sha, bytes=size)
    return files


def content_digest(files: Mapping[str, FileEntry]) -> str:
    """sha256 over names and hashes."""
    return json_digest({name: file.sha256 for name, file in files.items()})


def _parse(folder: Path, body: StrictObject) -> Entry:
    schema = body.take("schema", int)
    if schema != SCHEMA:
        raise ValueError(f"schema {schema} instead of {SCHEMA}")
    stage, model, target = (body.take(name, str) for name in ("stage", "model", "target"))
    fields, facts = body.take("key", dict), body.take("facts", dict)
    listed = body.take("files", dict)
    created, digest = body.take("created", float), body.take("digest", str)
    body.end()
    written = {
        "schema": schema, "stage": stage, "model": model, "target": target, "key": fields,
        "facts": facts, "files": listed, "created": created,
    }  # fmt: skip
    if digest != json_digest(written):
        raise ValueError("it was changed after it was written")
    key = StageKey(stage=stage, model=model, target=target, fields=fields)
    files = {check_name(name, str(folder)): FileEntry(**file) for name, file in listed.items()}
    return Entry(folder=folder, key=key, facts=facts, files=files, created=created)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _from_cache(file: BinaryIO) -> Iterator[bytes]:
    """What a file holds; a disk that cannot be read costs time, as any damage does."""
    try:
        yield from _chunks(file)
    except OSError as error:
        raise DamagedEntryError(f"{file.name}: cannot be read: {error.strerror}") from error


def _copy(chunks: Iterable[bytes], destination: Path) -> FileEntry:
    sha, size = hashlib.sha256(), 0
    with destination.open("wb") as file:
        for chunk in chunks:
            sha.update(chunk)
            file.write(chunk)
            size += len(chunk)
    return FileEntry(sha256=sha.hexdigest(), bytes=size)
