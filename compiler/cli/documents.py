"""JSON documents that verbs leave for ``fuselage report`` and for other tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...proof.writing import check_file, whole_file


def check_document(out: Path | None) -> None:
    """Refuse a file that cannot be written before the work for it starts.

    Raises:
        FuselageError: naming what is in its place.
    """
    check_file(out, ".json")


def write_document(out: Path, content: Mapping[str, Any]) -> None:
    """Write a document whole or not at all.

    Raises:
        FuselageError: when it cannot be written.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with whole_file(out) as file:
        file.write(f"{text}\n".encode())
