"""Write a graph so that a crash or a full disk leaves the old files or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from ...errors import GraphError
from ...graph.model import Graph


def write_graph(graph: Graph, path: Path) -> tuple[Path, ...]:
    """Write ``path`` and the weights beside it.

    An .onnx file never refers to weights of another graph, whenever the process dies: the weights
    come first and under a name that nothing has yet, then the graph takes the place of the old one
    in one step, then the weights that only the old one read go.

    Returns:
        The files written.

    Raises:
        GraphError: when the folder is missing, the name is not ``.onnx``, the disk is full, or the
            graph is beyond what a file can hold.
    """
    if path.suffix != ".onnx":
        raise GraphError(f"{path}: expected a file name that ends in .onnx")
    if not path.parent.is_dir():
        raise GraphError(f"{path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise GraphError(f"{path}: expected the name of a file, but it is a folder")
    work = Path(tempfile.mkdtemp(prefix=".fuselage-", dir=path.parent))
    moved: list[Path] = []
    try:
        stale = _weights_of(path)
        written = graph.save(work / path.name, weights=_free_name(path))
        for file in reversed(written):
            os.replace(file, path.parent / file.name)
            moved.append(path.parent / file.name)
    except OSError as error:
        _remove(moved)
        free = shutil.disk_usage(path.parent).free
        raise GraphError(
            f"{path}: cannot be written ({error.strerror or error}); {free:,} bytes are free, the "
            f"weights need {graph.weight_bytes:,}"
        ) from error
    except Exception as error:  # protobuf and onnx_ir raise many unrelated types here
        _remove(moved)
        line = " ".join(str(error).split())[:300]
        raise GraphError(f"{path}: cannot be written as ONNX ({line})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _remove(file for file in stale if file not in moved)
    return tuple(path.parent / file.name for file in written)


def _free_name(path: Path) -> str:
    """``<stem>.weights``, numbered when that exists: the graph in place may be reading it."""
    name, number = f"{path.stem}.weights", 1
    while os.path.lexists(path.parent / name):
        number += 1
        name = f"{path.stem}.{number}.weights"
    return name


def _weights_of(path: Path) -> tuple[Path, ...]:
    """Files of our naming that the graph in place reads; empty when there is none to read."""
    try:
        model = ir.load(path)
    except Exception:  # whatever is in place of the output, it has no weights of ours
        return ()
    tensors = (value.const_value for value in model.graph.initializers.values())
    names = {tensor.location for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    ours = f"{path.stem}."
    return tuple(
        path.parent / str(name)
        for name in sorted(map(str, names))
        if name.startswith(ours) and name.endswith(".weights") and "/" not in name
    )


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
