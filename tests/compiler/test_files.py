"""Writing a graph: whenever the process dies, the file in place reads its own weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.checks.files import write_graph
from fuselage.errors import GraphError
from fuselage.graph.model import Graph


def graph_of(value: float, size: int = 64) -> Graph:
    weight = ir.tensor(np.full((size, size), value, np.float32), name="w")
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        f (float[n, {size}] x) => (float[n, {size}] y) {{ y = MatMul(x, w) }}"""
    return Graph(ir.from_onnx_text(text, [weight]))


def held(path: Path) -> float:
    tensor = Graph.load(path).model.graph.initializers["w"].const_value
    assert tensor is not None
    return float(tensor.numpy()[0, 0])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_are_replaced_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for round_, weights in enumerate(("net.weights", "net.2.weights", "net.weights")):
        files = write_graph(graph_of(round_), path)
        assert files == (path, tmp_path / weights)
        assert names(tmp_path) == sorted(["net.onnx", weights])
        assert held(path) == round_
    assert write_graph(graph_of(9, size=4), path) == (path,)
    assert names(tmp_path) == ["net.onnx"]


class Killed(BaseException):
    """Nobody catches it."""


@pytest.mark.parametrize("survived", [0, 1, 2])  # onnx_ir renames the weights once itself
def test_a_death_between_two_files_leaves_a_whole_graph(
    survived: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    write_graph(graph_of(1), path)
    done: list[object] = []

    def replace(source: Path, target: Path) -> None:
        if len(done) == survived:
            raise Killed
        done.append(target)
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(Killed):
            write_graph(graph_of(2), path)
    assert held(path) == 1
    write_graph(graph_of(3), path)
    assert held(path) == 3


def test_weights_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "net.weights").write_bytes(b"of another program")
    (tmp_path / "net.old.weights").write_bytes(b"of nobody")
    write_graph(graph_of(1), tmp_path / "net.onnx")
    write_graph(graph_of(2), tmp_path / "net.onnx")
    assert held(tmp_path / "net.onnx") == 2
    assert names(tmp_path) == ["net.3.weights", "net.old.weights", "net.onnx", "net.weights"]
    assert (tmp_path / "net.weights").read_bytes() == b"of another program"


def test_a_graph_may_take_its_own_place(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_graph(graph_of(3), path)
    write_graph(Graph.load(path), path)
    assert held(path) == 3


def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    write_graph(graph_of(1), path)

    def replace(source: Path, target: Path) -> None:
        if Path(target).suffix == ".onnx":
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(GraphError, match=r"net\.onnx: cannot be written \(No space left"):
        write_graph(graph_of(2), path)
    assert (held(path), names(tmp_path)) == (1, ["net.onnx", "net.weights"])


def test_what_onnx_cannot_hold_is_one_message(tmp_path: Path) -> None:
    graph = graph_of(1)
    graph.model.graph[0].op_type = b"Bia\x80s"  # type: ignore[assignment]
    with pytest.raises(GraphError, match=r"net\.onnx: cannot be written as ONNX \("):
        write_graph(graph, tmp_path / "net.onnx")
    assert names(tmp_path) == []
