"""What is read from a graph, and what becomes of it in a picture."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from fuselage.errors import GraphError
from fuselage.proof.reporting.blocks import Block, blocks_of
from fuselage.proof.reporting.layer_diagram import draw_layer, is_drawable
from fuselage.proof.reporting.layers import Layer, layer_of, parts_of, within_layer
from fuselage.proof.reporting.node_grid import Row, draw_grid, rows_of_modules, rows_of_outline
from fuselage.proof.reporting.onnx_outline import Outline, OutlineNode, read_outline
from fuselage.proof.reporting.operators import KINDS, kind_of

from .conftest import graph_bytes


@pytest.fixture(scope="module")
def outline(tmp_path_factory: pytest.TempPathFactory) -> Outline:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    path.write_bytes(graph_bytes())
    found = read_outline(path)
    assert found is not None
    return found


def test_the_outline_is_what_onnx_reads(outline: Outline) -> None:
    model = onnx.load_from_string(graph_bytes())
    assert [(n.name, n.operator, n.inputs, n.outputs) for n in outline.nodes] == [
        (n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node
    ]
    assert outline.constants == {"w": (4, 4), "up": (4, 8), "down": (8, 4), "gain": (4,)}


@pytest.mark.parametrize(
    "data", [b"", b"no model", graph_bytes()[:-9], b"\x3a\xff\xff\xff\xff\x7f"]
)
def test_what_is_no_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(GraphError, match=r"model\.onnx: expected an ONNX graph"):
        read_outline(path)


@pytest.mark.parametrize(
    ("name", "layer", "inside"),
    [
        ("encoder.layer.3.attention.self.query/MatMul", ("encoder.layer", 3),
         "attention.self.query"),
        ("layers.11.mlp/Mul", ("layers", 11), "mlp"),
        ("encoder.block.0.layer.1.DenseReluDense/MatMul", ("encoder.block", 0),
         "layer.1.DenseReluDense"),
        ("transformer.h.7/Add", ("transformer.h", 7), ""),
        ("embeddings.LayerNorm/LayerNormalization", None, "embeddings.LayerNorm"),
        ("node_Shape_2", None, "node_Shape_2"),
        ("layer_norm_2/smoothed/quantized", None, "layer_norm_2"),
    ],
)  # fmt: skip
def test_the_first_number_of_a_path_is_the_layer(
    name: str, layer: tuple[str, int] | None, inside: str
) -> None:
    assert layer_of(name) == (None if layer is None else Layer(*layer))
    assert within_layer(name) == inside


def test_what_passes_add_belongs_to_the_layer_that_reads_it() -> None:
    def node(name: str, reads: str, makes: str) -> OutlineNode:
        return OutlineNode(name=name, operator="Mul", inputs=(reads,), outputs=(makes,))

    nodes = (
        node("node_mask", "x", "mask"),
        node("embeddings.norm/Mul", "x", "e"),
        node("value/quantized", "e", "q"),
        node("layers.0.up/Mul", "q", "u"),
        node("layers.0.down/Mul", "mask", "d"),
        node("layers.1.up/Mul", "mask", "v"),
        node("pooler/Mul", "v", "out"),
        node("tail", "out", "end"),
    )
    parts = parts_of(Outline(nodes, {}))
    assert [(part.layer, [n.name for n in part.nodes]) for part in parts] == [
        (None, ["node_mask", "embeddings.norm/Mul"]),
        (Layer("layers", 0), ["value/quantized", "layers.0.up/Mul", "layers.0.down/Mul"]),
        (Layer("layers", 1), ["layers.1.up/Mul"]),
        (None, ["pooler/Mul", "tail"]),
    ]


def test_the_blocks_of_a_layer(outline: Outline) -> None:
    layer = next(part for part in parts_of(outline) if part.layer == Layer("encoder.layer", 1))
    blocks = blocks_of(layer.nodes, outline)
    assert [(block.title, block.detail, block.nodes) for block in blocks] == [
        ("attention.query", "4 → 4", 2), ("attention.key", "4 → 4", 2),
        ("attention.value", "4 → 4", 2), ("Attention", "", 1), ("attention.output", "4 → 4", 1),
        ("Add, residual", "", 1), ("LayerNormalization", "", 1), ("up", "4 → 8", 1),
        ("Gelu", "", 1), ("down", "8 → 4", 1), ("Add, residual", "", 1),
    ]  # fmt: skip
    assert sum(block.nodes for block in blocks) == len(layer.nodes)


def test_the_drawing_of_a_layer_has_a_box_a_block_and_its_residual_detours(
    outline: Outline,
) -> None:
    layer = next(part for part in parts_of(outline) if part.layer == Layer("encoder.layer", 0))
    drawn = str(draw_layer(blocks_of(layer.nodes, outline), "<t>", "a & b", "key"))
    assert drawn.count("<rect") == 11
    assert drawn.count('class="edge"') == 3 + 3 + 7 + 2 + 1 + 1  # in, QKV, chain, around, mask, out
    assert '<title id="key-t">&lt;t&gt;</title>' in drawn
    assert "a &amp; b" in drawn
    assert ">mask</text>" in drawn


def test_what_is_computed_beside_the_way_enters_from_the_left() -> None:
    def node(operator: str, reads: str, makes: str) -> OutlineNode:
        return OutlineNode(
            name=f"h.1.{makes}/{operator}",
            operator=operator,
            inputs=tuple(reads.split()),
            outputs=(makes,),
        )

    nodes = (
        node("Cos", "positions", "cos"),
        node("MatMul", "hidden w", "q"),
        node("RotaryEmbedding", "q cos", "r"),
        node("Attention", "r r r mask", "a"),
        node("Reshape", "a shape", "b"),
        node("Transpose", "b", "c"),
        node("Add", "c hidden", "out"),
    )
    outline = Outline(nodes, {"w": (4, 4), "shape": (3,)})
    blocks = blocks_of(nodes, outline)
    assert [(block.title, block.aside, block.nodes) for block in blocks] == [
        ("q", False, 1), ("RotaryEmbedding", True, 1), ("Attention", True, 1),
        ("Reshape, Transpose", False, 2), ("Add, residual", False, 1),
    ]  # fmt: skip
    drawn = str(draw_layer(blocks, "t", "d", "k"))
    assert ">angles</text>" in drawn
    assert ">mask</text>" in drawn


def test_layers_that_are_too_wide_to_read_are_not_drawn() -> None:
    def wide(number: int) -> list[Block]:
        nodes = tuple(
            OutlineNode(
                name=f"h.0.p{i}/MatMul", operator="MatMul", inputs=("x", "w"), outputs=(f"y{i}",)
            )
            for i in range(number)
        )
        return blocks_of(nodes, Outline(nodes, {"w": (4, 4)}))

    assert is_drawable(wide(4))
    assert not is_drawable(wide(5))
    assert not is_drawable([])


def test_rows_are_layers_and_what_stands_around_them(outline: Outline) -> None:
    rows = rows_of_outline(outline)
    assert [(row.name, len(row.kinds)) for row in rows] == [
        ("layer 0", 14), ("layer 1", 14), ("behind", 1),
    ]  # fmt: skip
    drawn = str(draw_grid(rows, key="k", title="t"))
    assert drawn.count('class="node"') == 29


def test_rows_of_modules_are_sorted_by_kind() -> None:
    rows = rows_of_modules(
        {"": {"Shape": 2}, "h.1.mlp": {"Add": 1, "MatMul": 2}, "h.0": {"Softmax": 1}}
    )
    assert rows == [
        Row("outside", ("shape", "shape")), Row("layer 0", ("attention",)),
        Row("layer 1", ("linear", "linear", "arithmetic")),
    ]  # fmt: skip


def test_many_equal_layers_become_one_row() -> None:
    rows = rows_of_modules({f"h.{index}": {"MatMul": 2} for index in range(30)})
    assert rows == [Row("layer 0 to 29", ("linear", "linear"))]


@pytest.mark.parametrize(
    ("operator", "kind"),
    [("MatMul", "linear"), ("com.microsoft::MatMulIntegerToFloat", "linear"),
     ("Gelu", "activation"), ("acme::Frobnicate", "other"), ("Reshape", "shape"),
     ("QuantizeLinear", "quantise")],
)  # fmt: skip
def test_kinds_of_operators(operator: str, kind: str) -> None:
    assert kind_of(operator).key == kind
    assert len({kind.colour for kind in KINDS}) == len(KINDS)
