"""Files that a proof leaves behind: refused before the work starts, written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import FuselageError


def check_file(out: Path | None, *suffixes: str) -> None:
    """Refuse a file that cannot be written before the work for it starts.

    Args:
        out: the file; None for no file.
        suffixes: one of which ends its name, such as ``.json``.

    Raises:
        FuselageError: naming what is in its place.
    """
    if out is None:
        return
    if out.suffix.lower() not in suffixes:
        raise FuselageError(
            f"{out}: expected a name that ends in {suffixes[0]}, got {out.suffix!r}"
        )
    if out.is_dir() or not out.parent.is_dir():
        found = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise FuselageError(f"{out}: expected a file to write in a folder that exists, but {found}")


@contextmanager
def whole_file(out: Path) -> Iterator[BinaryIO]:
    """Write under a temporary name first, so that a crash leaves no half file.

    Raises:
        FuselageError: when it cannot be written.
    """
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(out)
    except OSError as error:
        raise FuselageError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
