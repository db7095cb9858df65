"""Write a graph so that a crash or a full disk leaves the old files or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ..errors import GraphError
from ..graph.model import Graph


def write_graph(graph: Graph, path: Path) -> tuple[Path, ...]:
    """Write ``path`` and the weights beside it.

    Returns:
        The files written.

    Raises:
        GraphError: when the folder is missing, the name is not ``.onnx`` or the disk is full.
    """
    if path.suffix != ".onnx":
        raise GraphError(f"{path}: expected a file name that ends in .onnx")
    if not path.parent.is_dir():
        raise GraphError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise GraphError(f"{path}: expected the name of a file, but it is a folder")
    work = Path(tempfile.mkdtemp(prefix=".fuselage-", dir=path.parent))
    try:
        written = graph.save(work / path.name)
        # The graph last: an .onnx never refers to weights that are not there yet.
        for file in reversed(written):
            os.replace(file, path.parent / file.name)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise GraphError(
            f"{path}: cannot be written ({error.strerror or error}); {free:,} bytes are free, the "
            f"weights need {graph.weight_bytes:,}"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tuple(path.parent / file.name for file in written)
