"""Digests of fuselage's own source, of all of it or of what one stage runs."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ALL = ("errors.py", "graph", "passes", "engines", "calibration", "compiler")

_KEPT = ("compiler/cache/entry.py", "compiler/stages/kept_graph.py", "compiler/stages/product.py")
"""What the facts of products look like."""

EXPORT = (
    "errors.py", "graph", "engines/text/task.py", "passes/base.py", "passes/constants.py",
    "passes/masks", "compiler/exporting", "compiler/models", "compiler/stages/export.py", *_KEPT,
)  # fmt: skip
"""What turns a model into a graph."""

REFERENCE = (
    *EXPORT, "engines/text", "compiler/checks/proof.py", "compiler/stages/reference.py",
)  # fmt: skip
"""What asks the PyTorch model."""

ENGINE = ("errors.py", "graph", "engines", "compiler/stages/engine.py", *_KEPT)
"""What turns a lowered graph into an engine: a layer that imports no other, and its stage."""

_ROOT = Path(__file__).resolve().parents[2]
_KINDS = ("*.py", "*.txt", "*.json")


@cache
def code_digest(parts: tuple[str, ...] = ALL) -> str:
    """sha256 of source files and what ships with them.

    Args:
        parts: files, and folders with all that is below them.
    """
    files: set[Path] = set()
    for part in parts:
        path = _ROOT / part
        files |= {path} if path.is_file() else {f for kind in _KINDS for f in path.rglob(kind)}
    sha = hashlib.sha256()
    for path in sorted(files):
        sha.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()
