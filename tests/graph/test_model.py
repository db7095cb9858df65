from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fuselage.calibration.session import GraphSession
from fuselage.errors import GraphError
from fuselage.graph.history import StageRecord
from fuselage.graph.model import Graph, reject_nan, tensor_spec
from fuselage.graph.tensors import TensorSpec

RECORD = StageRecord(stage="export", seconds=0.5, nodes_before=0, nodes_after=4)


def test_what_a_graph_tells_about_itself(graph: Graph) -> None:
    assert graph.inputs == (
        TensorSpec("x", "float32", ("batch", 16)),
        TensorSpec("ids", "int64", ("batch", "s")),
    )
    assert [str(spec) for spec in graph.outputs] == ["y: float32[batch, 32]", "shape: int64[n]"]
    assert graph.opset == 23
    assert graph.op_counts == {"MatMul": 1, "Add": 1, "Mul": 1, "Shape": 1}
    assert graph.weight_bytes == 16 * 32 * 4 + 32 * 4 + 4


def test_operators_are_counted_by_domain_most_frequent_first() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 23, "own" : 1]>
        f (float[4] x) => (float[4] y) { a = own.Neg(x)\n b = Neg(a)\n y = Neg(b) }""")
    assert list(Graph(model).op_counts.items()) == [("Neg", 2), ("own::Neg", 1)]


def test_a_graph_without_standard_operators_has_no_opset() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["own" : 1]>
        f (float[4] x) => (float[4] y) { y = own.Neg(x) }""")
    assert Graph(model).opset == 0


def test_unnamed_dims_get_names_of_their_own() -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.BFLOAT16), shape=ir.Shape([None, 3]))
    assert tensor_spec(value) == TensorSpec("x", "bfloat16", ("x_0", 3))


@pytest.mark.parametrize("missing", ["type", "shape"])
def test_an_untyped_value_has_no_spec(missing: str) -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([3]))
    setattr(value, missing, None)
    with pytest.raises(GraphError, match=r"x: expected a typed tensor of known rank, got .*infer"):
        tensor_spec(value)


def test_clones_share_weights_and_nothing_else(graph: Graph) -> None:
    clone = graph.with_record(RECORD).clone()
    assert clone.history == (RECORD,)
    ours, theirs = (g.model.graph.initializers["w"].const_value for g in (graph, clone))
    assert ours is theirs
    clone.model.graph[0].name = "other"
    clone.model.graph.initializers["w"].const_value = None
    assert graph.model.graph[0].name != "other"
    assert graph.model.graph.initializers["w"].const_value is ours


def test_records_are_appended_to_a_new_graph(graph: Graph) -> None:
    twice = graph.with_record(RECORD).with_record(RECORD)
    assert (len(graph.history), len(twice.history)) == (0, 2)
    assert twice.model is graph.model


# --- digest


def test_equal_graphs_have_equal_digests(build: Any) -> None:
    assert build().digest() == build().digest() == build().clone().digest()


def change_name(graph: ir.Graph) -> None:
    graph[0].name = "other"


def change_attribute(graph: ir.Graph) -> None:
    graph[3].attributes["start"] = ir.AttrInt64("start", 1)


def change_operand(graph: ir.Graph) -> None:
    graph[1].replace_input_with(0, graph[1].inputs[1])


def change_dim(graph: ir.Graph) -> None:
    graph.inputs[0].shape = ir.Shape(["rows", 16])


@pytest.mark.parametrize(
    "change", [change_name, change_attribute, change_operand, change_dim], ids=lambda c: c.__name__
)
def test_every_change_of_structure_changes_the_digest(graph: Graph, change: Any) -> None:
    before = graph.digest()
    change(graph.model.graph)
    assert graph.digest() != before


def test_the_opset_changes_the_digest(build: Any) -> None:
    assert build(opset=22).digest() != build(opset=23).digest()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros((16, 32), np.float32), np.zeros((32, 16), np.float32)),
        (np.zeros(32, np.float32), np.zeros(32, np.int32)),
        (np.zeros(32, np.float32), np.full(32, -0.0, np.float32)),
        (np.zeros(32, np.float16), np.zeros(32, ml_dtypes.bfloat16)),
    ],
    ids=["shape", "dtype", "sign of zero", "kind of half"],
)
def test_weights_change_the_digest(build: Any, first: Any, second: Any) -> None:
    assert build(b=first).digest() != build(b=second).digest()


def test_large_attributes_change_the_digest_to_the_last_element(graph: Graph) -> None:
    table = np.zeros(5000, np.float32)
    digests = set()
    for last in (0, 1):
        table[2500] = last
        node = graph.model.graph[3]
        node.attributes["table"] = ir.AttrTensor("table", ir.tensor(table.copy()))
        digests.add(graph.digest())
    assert len(digests) == 2


def test_shape_inference_does_not_change_the_digest(graph: Graph) -> None:
    before = graph.digest()
    graph.model.graph[0].outputs[0].shape = ir.Shape(["batch", 32])
    assert graph.digest() == before


# --- files


def test_a_saved_graph_comes_back(graph: Graph, tmp_path: Path) -> None:
    files = graph.save(tmp_path / "net.onnx")
    assert [file.name for file in files] == ["net.onnx", "net.weights"]
    assert files[1].stat().st_size >= 16 * 32 * 4
    assert files[0].stat().st_size < 2000
    back = Graph.load(files[0])
    assert back.digest() == graph.digest()
    assert (back.inputs, back.outputs, back.history) == (graph.inputs, graph.outputs, ())
    weight = back.model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)  # mapped, not read
    assert not isinstance(graph.model.graph.initializers["w"].const_value, ir.ExternalTensor)
    onnx.checker.check_model(str(files[0]))


def test_small_graphs_are_one_file(build: Any, tmp_path: Path) -> None:
    small = build(w=np.ones((16, 8), np.float32))
    assert small.save(tmp_path / "net.onnx") == (tmp_path / "net.onnx",)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert Graph.load(tmp_path / "net.onnx").digest() == small.digest()


def test_saving_replaces_larger_leftovers(build: Any, graph: Graph, tmp_path: Path) -> None:
    graph.save(tmp_path / "net.onnx")
    small = build(w=np.ones((16, 8), np.float32))
    assert small.save(tmp_path / "net.onnx") == (tmp_path / "net.onnx",)
    assert not (tmp_path / "net.weights").exists()


def test_bfloat16_weights_come_back(build: Any, tmp_path: Path) -> None:
    half = build(w=np.linspace(-1, 1, 2048).astype(ml_dtypes.bfloat16).reshape(16, 128))
    half.save(tmp_path / "net.onnx")
    assert Graph.load(tmp_path / "net.onnx").digest() == half.digest()


def test_a_loaded_graph_can_be_saved_elsewhere(graph: Graph, tmp_path: Path) -> None:
    graph.save(tmp_path / "a.onnx")
    loaded = Graph.load(tmp_path / "a.onnx")
    loaded.save(tmp_path / "b.onnx")
    (tmp_path / "a.weights").unlink()
    assert Graph.load(tmp_path / "b.onnx").digest() == graph.digest()


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"none\.onnx: no such file; expected an ONNX model"):
        Graph.load(tmp_path / "none.onnx")
    with pytest.raises(GraphError, match="no such file"):
        Graph.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100), b"{}\n", bytes(range(256))],
    ids=["empty", "zero", "text", "png", "json", "noise"],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"foreign\.onnx: (not a readable ONNX|expected an ONNX)"):
        Graph.load(path)


def test_a_truncated_graph_is_refused_or_reads_as_what_it_is(graph: Graph, tmp_path: Path) -> None:
    path, _ = graph.save(tmp_path / "net.onnx")
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(GraphError, match=r"net\.onnx: "):
            Graph.load(path)


@pytest.mark.parametrize("keep", [0, 1, 2047])
def test_truncated_weights_are_refused(graph: Graph, tmp_path: Path, keep: int) -> None:
    path, weights = graph.save(tmp_path / "net.onnx")
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(
        GraphError,
        match=rf"initializer 'w' needs 2,048 bytes of net\.weights, which holds {keep:,}; "
        "the model is truncated, copy both files again",
    ):
        Graph.load(path)


def test_missing_weights_are_refused(graph: Graph, tmp_path: Path) -> None:
    path, weights = graph.save(tmp_path / "net.onnx")
    weights.unlink()
    with pytest.raises(GraphError, match=r"needs 2,048 bytes of net\.weights, which is missing"):
        Graph.load(path)


def test_flipped_weights_have_another_digest(graph: Graph, tmp_path: Path) -> None:
    path, weights = graph.save(tmp_path / "net.onnx")
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    assert Graph.load(path).digest() != graph.digest()


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a/../../secret"])
def test_weights_outside_the_folder_are_refused(graph: Graph, tmp_path: Path, place: str) -> None:
    path, _ = graph.save(tmp_path / "net.onnx")
    (tmp_path.parent / "secret").write_bytes(bytes(5000))
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match=r"initializer 'w' lies in .*, outside the folder"):
        Graph.load(path)


@pytest.mark.parametrize("outputs", [True, False])
def test_a_graph_without_nodes_or_outputs_is_no_model(tmp_path: Path, outputs: bool) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 23]>\nf (float[4] x) => (float[4] y) { y = Neg(x) }'
    )
    if outputs:
        model.graph.outputs[0] = model.graph.inputs[0]
        model.graph.remove(model.graph[0])
    else:
        model.graph.outputs.clear()
    ir.save(model, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match=r"got \d nodes and \d outputs; is it an ONNX file"):
        Graph.load(tmp_path / "net.onnx")


# --- weights that are no numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unusable_weights_are_refused_by_name(build: Any, dtype: Any, value: float) -> None:
    weight = np.ones((16, 32)).astype(dtype)
    weight[3, 5] = weight[7, 7] = value
    with pytest.raises(
        GraphError,
        match=r"acme/model: weight 'w' \[16, 32\] holds 2 NaN or infinite values of 512; expected",
    ):
        reject_nan(build(w=weight).model, "acme/model")


def test_opposite_infinities_do_not_cancel(build: Any) -> None:
    weight = np.zeros((16, 32), np.float32)
    weight[0, 0], weight[0, 1] = np.inf, -np.inf
    with pytest.raises(GraphError, match="holds 2 NaN or infinite"):
        reject_nan(build(w=weight).model, "m")


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": np.float32(-np.inf)},  # a mask fill
        {"w": np.full((16, 32), 3e38, np.float32)},  # the sum is beyond float32
        {"w": np.full((16, 32), 1e308)},  # the sum is beyond float64
        {"w": np.full((16, 32), 6e4, np.float16)},
        {"w": np.full((16, 32), 2**62, np.int64)},
    ],
    ids=["scalar", "float32", "float64", "float16", "int64"],
)
def test_finite_weights_and_scalars_pass(build: Any, changed: dict[str, Any]) -> None:
    reject_nan(build(**changed).model, "m")


# --- what a foreign file may hold


@pytest.mark.parametrize(
    ("nodes", "missing"),
    [
        ("a = Relu(b)  b = Neg(x)  y = Neg(a)", "b"),
        ("a = Add(x, b)  b = Neg(a)  y = Neg(b)", "b"),
        ("y = Add(x, nowhere)", "nowhere"),
    ],
    ids=["unsorted", "cycle", "undefined"],
)
def test_nodes_that_read_what_is_not_there_yet_are_refused(
    nodes: str, missing: str, tmp_path: Path
) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        f (float[4] x) => (float[4] y) {{ {nodes} }}"""
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(GraphError, match=rf"model.onnx: node .* reads '{missing}', which no input"):
        Graph.load(tmp_path / "model.onnx")


def test_subgraphs_may_read_what_surrounds_them(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
        f (bool c, float[4] x) => (float[4] y) {
            outer = Neg(x)
            y = If(c) <then_branch = t () => (float[4] a) { a = Relu(outer) },
                       else_branch = e () => (float[4] b) { b = Abs(x) }>
        }"""
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    assert Graph.load(tmp_path / "model.onnx").op_counts == {"Neg": 1, "If": 1}


@pytest.mark.parametrize("size", [2, 256, 257])
def test_a_loaded_graph_runs_wherever_its_small_weights_were(size: int, tmp_path: Path) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        f (float[{size}] x) => (float[{size}] y) {{ y = Add(x, b) }}"""
    model = onnx.parser.parse_model(text)
    bias = np.arange(size, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "b"))
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0
    )
    graph = Graph.load(tmp_path / "m.onnx")
    with GraphSession(graph, threads=1) as session:
        answer = session.run({"x": np.ones(size, np.float32)})["y"]
    np.testing.assert_array_equal(answer, bias + 1)
    graph.save(tmp_path / "again.onnx")
    assert Graph.load(tmp_path / "again.onnx").digest() == graph.digest()


def test_a_link_to_weights_elsewhere_is_refused(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    graph.save(tmp_path / "model" / "m.onnx")
    weights = tmp_path / "model" / "m.weights"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GraphError, match=r"'w' lies in 'm.weights', a link out of the folder"):
        Graph.load(tmp_path / "model" / "m.onnx")


def test_a_value_defined_twice_is_refused(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
        f (float[4] x) => (float[4] y) { y = Neg(x)  y = Abs(x) }"""
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(GraphError, match=r"'y' \(Abs\) defines 'y', which is defined already"):
        Graph.load(tmp_path / "model.onnx")
