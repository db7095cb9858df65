"""Writes a bundle: all of it, or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import BundleError
from .folder_swap import WorkFolder, only_writer, replace_folder, sweep
from .manifest import MANIFEST, FileEntry, Manifest, check_name

_SHORTAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BundleWriter:
    """Builds a bundle in a temporary folder and moves it into place when it is complete.

        with BundleWriter("build/minilm") as writer:
            graph.save(writer.path("graph/model.onnx"))
            backend.build(graph, config, writer.folder("ort-cpu"))
            writer.commit(Manifest(...))

    An exception, a kill or a power cut leaves the old bundle, or none if there was none; leaving
    the block without `commit` is the same as an exception. Remains of dead builds are removed when
    the next one starts. Two writers of one destination do not disturb each other; the last to
    commit wins.

    Args:
        destination: folder of the bundle; missing, empty, or an older bundle.

    Raises:
        BundleError: on entering, when the destination is something else; in the block, when the
            disk is full or a file too large: the OSError is raised again as a BundleError.
    """

    def __init__(self, destination: str | Path) -> None:
        self.destination = Path(destination).resolve()
        self._work: WorkFolder | None = None

    def __enter__(self) -> Self:
        try:
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            with only_writer(self.destination):
                _check_destination(self.destination)
                sweep(self.destination)
            self._work = WorkFolder(self.destination)
        except OSError as error:
            raise self._failure(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The message counts the free space of the moment of failure, so it comes before clearing.
        failure = None
        if isinstance(error, OSError) and _is_shortage(error):
            failure = self._failure(error)
        if self._work is not None:
            self._work.close()
            self._work = None
        if failure is not None:
            raise failure from error

    @property
    def root(self) -> Path:
        """The temporary folder.

        Raises:
            BundleError: outside the with block.
        """
        if self._work is None:
            raise BundleError(f"{self.destination}: the writer is not open; use it in a with block")
        return self._work.path

    def path(self, name: str) -> Path:
        """Where to write a file; its folder exists.

        Args:
            name: path inside the bundle, for example ``graph/model.onnx``.

        Raises:
            BundleError: when the name leaves the bundle.
        """
        path = self.root / check_name(name, str(self.destination))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def folder(self, name: str) -> Path:
        """A folder of the bundle, created when missing."""
        folder = self.path(name)
        folder.mkdir(exist_ok=True)
        return folder

    def add(self, name: str, content: str | bytes) -> Path:
        """Write one file; text is written as UTF-8 with the line ends it has."""
        path = self.path(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def commit(self, manifest: Manifest) -> Manifest:
        """Hash and sync every file, write the manifest last, and move the bundle into place.

        Args:
            manifest: all but `files`, which are replaced by what the folder holds.

        Returns:
            The manifest as written.

        Raises:
            BundleError: when the manifest is not one that would load, a file is a link, or the
                file system refuses.
        """
        try:
            files = {name: _entry(self.root, name) for name in _names(self.root)}
            manifest = replace(manifest, files=files)
            text = manifest.to_json()
            Manifest.from_json(text)
            _write_synced(self.root / MANIFEST, text)
            _sync_folders(self.root)
            with only_writer(self.destination):
                _check_destination(self.destination)
                replace_folder(self.root, self.destination)
            _sync_folder(self.destination.parent)
        except OSError as error:
            raise self._failure(error) from error
        return manifest

    def _failure(self, error: OSError) -> BundleError:
        where = self.destination.parent
        if not _is_shortage(error):
            return BundleError(f"{self.destination}: cannot write the bundle: {error}")
        if _is_too_large(error):
            return BundleError(
                f"{self.destination}: a file would be larger than this process or the file system "
                f"of {where} allows ({error.strerror or error}); raise ulimit -f, or choose "
                "another folder. Nothing was left behind"
            )
        held = _held_bytes(self._work.path) if self._work else 0
        return BundleError(
            f"{self.destination}: the disk is full ({error.strerror or error}); with {held:,} "
            f"bytes of the bundle in place, {shutil.disk_usage(where).free:,} bytes are free in "
            f"{where}; free some space or choose another folder. Nothing was left behind"
        )


def _is_shortage(error: OSError) -> bool:
    """Whether there was no room for all that was to be written."""
    return error.errno in _SHORTAGES or _is_cut(error)


def _is_cut(error: OSError) -> bool:
    """Numpy's tofile says "N requested and M written", without a number that says why."""
    return error.errno is None and "requested and" in str(error)


def _is_too_large(error: OSError) -> bool:
    """Whether the file is at its limit rather than the disk; Python ignores SIGXFSZ."""
    if not _is_cut(error) or sys.platform == "win32":
        return error.errno == errno.EFBIG
    import resource

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def _check_destination(destination: Path) -> None:
    """A bundle replaces an empty folder or another bundle, and nothing else."""
    if not destination.exists():
        return
    if not destination.is_dir():
        raise BundleError(
            f"{destination}: expected a folder or nothing, found a file; move it away"
        )
    if not any(destination.iterdir()):
        return
    manifest = destination / MANIFEST
    # Other tools have a manifest.json too; a damaged one of ours may still be replaced.
    if not manifest.is_file() or b'"recipe_digest"' not in manifest.read_bytes():
        raise BundleError(
            f"{destination}: the folder holds files but is not a bundle, so it is not replaced; "
            "choose another folder or empty this one"
        )


def _names(root: Path) -> list[str]:
    """Paths of all files below root, sorted."""
    names = []
    for folder, _, files in os.walk(root):
        names += [(Path(folder) / file).relative_to(root).as_posix() for file in files]
    return sorted(names)


def _entry(root: Path, name: str) -> FileEntry:
    path = root / check_name(name, str(root))
    if path.is_symlink():
        raise BundleError(f"{path}: is a link; a bundle holds plain files, copy the file instead")
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return FileEntry(sha256=digest, bytes=os.fstat(file.fileno()).st_size)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        _sync_folder(Path(folder))


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows has no call for it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
