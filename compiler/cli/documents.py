"""JSON documents that verbs leave for ``fuselage report`` and for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import FuselageError


def check_document(out: Path | None) -> None:
    """Refuse a file that cannot be written before the work for it starts.

    Raises:
        FuselageError: naming what is in its place.
    """
    if out is None:
        return
    if out.suffix != ".json":
        raise FuselageError(f"{out}: expected a name that ends in .json, got {out.suffix!r}")
    if out.is_dir() or not out.parent.is_dir():
        found = f"{out} is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise FuselageError(f"{out}: expected a file to write in a folder that exists, but {found}")


def write_document(out: Path, content: Mapping[str, Any]) -> None:
    """Write a document under a temporary name first, so that a crash leaves no half file."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise FuselageError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
