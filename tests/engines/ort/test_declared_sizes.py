"""Weights that are declared larger than their files are refused before ONNX Runtime sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from fuselage.engines.base import BuildConfig, LoadOptions
from fuselage.engines.ort.backend import OrtBackend
from fuselage.engines.ort.declared_sizes import check_declared_sizes
from fuselage.errors import BundleError
from fuselage.graph.model import Graph

HUGE = 1 << 62


def weight(name: str = "weight", dims: tuple[int, ...] = (2, 3)) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(24))


def model(weights: list[TensorProto], *attributes: AttributeProto) -> ModelProto:
    nodes = [NodeProto(op_type="Any", attribute=attributes)]
    return ModelProto(ir_version=11, graph=GraphProto(name="g", node=nodes, initializer=weights))


def in_the_graph(tensor: TensorProto) -> ModelProto:
    return model([weight("sound"), tensor])


def in_a_constant(tensor: TensorProto) -> ModelProto:
    return model([], AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor))


def in_a_branch(tensor: TensorProto) -> ModelProto:
    branch = GraphProto(name="b", initializer=[tensor])
    return model([], AttributeProto(name="then", type=AttributeProto.GRAPH, g=branch))


def in_a_file(tensor: TensorProto) -> ModelProto:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "model.weights", "offset": "0", "length": "24"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model([tensor])


PLACES = (in_the_graph, in_a_constant, in_a_branch, in_a_file)
Place = Callable[[TensorProto], ModelProto]


def written(folder: Path, content: ModelProto) -> Path:
    (folder / "model.weights").write_bytes(bytes(24))
    (folder / "model.onnx").write_bytes(content.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dims", [(HUGE,), (1 << 40, 1 << 40), (-1,), (-2, 3), (100_000,)])
def test_a_weight_larger_than_its_file_is_named(
    tmp_path: Path, place: Place, dims: tuple[int, ...]
) -> None:
    path = written(tmp_path, place(weight("big", dims)))
    with pytest.raises(BundleError, match=rf"'big' is declared with \[{dims[0]}.*has [\d,]+ bytes"):
        check_declared_sizes(path)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dims", [(2, 3), (), (0,), (0, HUGE)])
def test_what_fits_passes(tmp_path: Path, place: Place, dims: tuple[int, ...]) -> None:
    check_declared_sizes(written(tmp_path, place(weight("small", dims))))


def test_four_bits_and_strings_pass(tmp_path: Path) -> None:
    packed = TensorProto(name="packed", data_type=TensorProto.INT4, dims=(4096,))
    packed.raw_data = bytes(2048)
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=(3,))
    words.string_data.extend([b"", b"", b""])
    check_declared_sizes(written(tmp_path, model([packed, words])))


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\x7f\x01", b"no protobuf at all"])
def test_what_is_no_protobuf_is_left_to_onnx_runtime(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    check_declared_sizes(tmp_path / "model.onnx")
    check_declared_sizes(tmp_path / "missing.onnx")


def test_graphs_nested_without_end_are_left_to_onnx_runtime(tmp_path: Path) -> None:
    content = b""
    for _ in range(2000):  # a graph in an attribute in a node in a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            content = tag + _varint(len(content)) + content
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + _varint(len(content)) + content)
    check_declared_sizes(tmp_path / "model.onnx")


def test_an_engine_is_refused_and_nothing_is_printed(
    tiny: Graph, config: BuildConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    OrtBackend("ort-cpu").build(tiny, config, tmp_path)
    damaged = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    dims = damaged.graph.initializer[0].dims
    del dims[:]
    dims.append(HUGE)
    (tmp_path / "model.onnx").write_bytes(damaged.SerializeToString())
    with pytest.raises(BundleError, match=f"is declared with \\[{HUGE}\\] elements"):
        OrtBackend("ort-cpu").load(tmp_path, LoadOptions(threads=1))
    assert capfd.readouterr() == ("", "")


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
