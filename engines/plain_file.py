"""Files that are what they seem: in the folder, and of bytes that end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import BundleError


def plain_file(root: Path, path: Path) -> os.stat_result:
    """What the file system says about a file, which is not opened.

    Args:
        root: folder of the bundle.
        path: of the file, in it.

    Raises:
        BundleError: when it is a link out of the folder, or a pipe, a device or a folder: some of
            them never end, and opening others waits for ever.
        OSError: when there is nothing, or a link in a circle.
    """
    found = path.stat()
    _refuse_link_out(root, path)
    if not stat.S_ISREG(found.st_mode):
        raise BundleError(
            f"{path}: expected a file, found a {_kind(found.st_mode)}; copy or build the bundle "
            "again"
        )
    return found


def check_inside(root: Path, unit: Path) -> None:
    """Check that a file, or every file in a folder, is a plain one in the bundle.

    Raises:
        BundleError: naming the one that is not.
    """
    for path in (unit, *sorted(unit.rglob("*"))):
        try:
            if path.is_dir():
                _refuse_link_out(root, path)
            else:
                plain_file(root, path)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _refuse_link_out(root: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{path}: is a link out of the bundle; do not use this bundle")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "folder"
    return "pipe" if stat.S_ISFIFO(mode) else "device"
