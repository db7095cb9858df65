"""Operations and bytes: by hand, and against a count of the same graph with all sizes fixed."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fuselage.graph.model import Graph
from fuselage.proof.cost_model.counting import NodeCost, count, layer_of
from fuselage.proof.cost_model.operators import OPERATORS

from .conftest import Parse

_SHAPES = [(1, 1), (1, 7), (3, 5), (4, 16)]


def _by_name(graph: Graph) -> dict[str, NodeCost]:
    return {node.name: node for node in count(graph).nodes}


def test_a_block_counted_by_hand(block: Graph) -> None:
    nodes = _by_name(block)
    said = {name: str(node.flops) for name, node in nodes.items() if node.flops}
    # heads 2, width 4: 2 (2*4 + 2*4 + 5 + 1) = 44 for each pair of tokens, mask and cause absent
    assert said == {
        "n_n": "60*batch*sequence",  # 7 * 8 channels, 4 a row
        "n_q": "128*batch*sequence",  # 2 * 8 * 8
        "n_a": "44*batch*sequence*sequence",
        "n_r": "8*batch*sequence",
        "n_u": "256*batch*sequence",  # 2 * 8 * 16
        "n_g": "80*batch*sequence",  # 5 * 16
        "n_d": "256*batch*sequence",
        "n_y": "8*batch*sequence",
    }
    gather, multiply = nodes["n_e"], nodes["n_u"]
    assert str(gather.weight_bytes) == "32*batch*sequence"  # rows that are read, not the table
    assert str(gather.read_bytes) == "8*batch*sequence"
    assert (str(multiply.weight_bytes), multiply.weight) == ("512", (8, 16))
    assert str(multiply.read_bytes) == "32*batch*sequence"
    assert str(multiply.written_bytes) == "64*batch*sequence"
    assert not nodes["n_m"].moved_bytes  # Unsqueeze is the same memory
    assert str(nodes["n_f"].moved_bytes) == "12*batch*sequence"
    assert not count(block).problems


def test_the_weight_of_a_product_is_its_matrix_and_no_scale_or_bias(parse: Parse) -> None:
    graph = parse(
        """g (uint8[batch, 4] x, float[batch, 4] f) => (uint8[batch, 6] y, float[batch, 6] z) {
            y = QLinearMatMul(x, s, p, w, s, p, s, p)
            z = Gemm(f, f6, b)
        }""",
        s=np.float32(0.1),
        p=np.uint8(3),
        w=np.ones((4, 6), np.uint8),
        f6=np.ones((4, 6), np.float32),
        b=np.ones(6, np.float32),
    )
    assert [node.weight for node in count(graph).nodes] == [(4, 6), (4, 6)]
    assert [node.integer for node in count(graph).nodes] == [True, False]


@pytest.mark.parametrize(("batch", "sequence"), _SHAPES)
def test_a_count_with_fixed_sizes_agrees(block: Graph, batch: int, sequence: int) -> None:
    sizes = {"batch": batch, "sequence": sequence}
    cost = count(block)
    flops, moved = _brute_force(block, sizes)
    assert cost.flops.at(sizes) == flops
    assert cost.moved_bytes.at(sizes) == moved


def _brute_force(graph: Graph, sizes: dict[str, int]) -> tuple[int, float]:
    """Fix every size, let ONNX infer the shapes, and go through the nodes with plain numbers."""
    model = ir.to_proto(graph.model)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    graph_ = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes: dict[str, list[int]] = {}
    itemsize: dict[str, float] = {}
    for value in (*graph_.input, *graph_.output, *graph_.value_info):
        tensor = value.type.tensor_type
        shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]
        itemsize[value.name] = ir.DataType(tensor.elem_type).itemsize
    for constant in graph_.initializer:
        shapes[constant.name] = list(constant.dims)
        itemsize[constant.name] = ir.DataType(constant.data_type).itemsize
    flops, moved = 0, 0.0
    for node in graph_.node:
        inputs, output = [shapes[name] for name in node.input], shapes[node.output[0]]
        flops += _operations(node.op_type, inputs, output)
        if node.op_type != "Unsqueeze":
            for name in (*node.input, *node.output):
                moved += math.prod(shapes[name]) * itemsize[name]
        if node.op_type == "Gather":  # only the rows that are asked for
            moved += (math.prod(output) - math.prod(inputs[0])) * itemsize[node.input[0]]
    return flops, moved


def _operations(op: str, inputs: list[list[int]], output: list[int]) -> int:
    each = math.prod(output)
    if op == "MatMul":
        return 2 * each * inputs[0][-1]
    if op == "Attention":
        (batch, queries, channels), keys = inputs[0], inputs[1][1]
        heads, width = 2, channels // 2
        scores = batch * heads * queries * keys
        return scores * (2 * width + 2 * width) + scores * (5 + 1)
    if op == "LayerNormalization":
        return each * 7 + 4 * each // inputs[0][-1]
    return each * {"Add": 1, "Mul": 1, "Gelu": 5}.get(op, 0)


def test_quantised_products(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, sequence, 8] x)
            => (float[batch, sequence, 4] y, float[batch, sequence, 6] z)
        {
            codes = QuantizeLinear(x, scale, zero)
            y = com.microsoft.MatMulIntegerToFloat(codes, w, scale, ws, zero, wz, bias)
            z = com.microsoft.MatMulNBits<K = 8, N = 6, bits = 4, block_size = 16>(x, packed, ps)
        }""",
        scale=np.float32(0.1),
        zero=np.uint8(128),
        w=np.zeros((8, 4), np.int8),
        ws=np.ones(4, np.float32),
        wz=np.zeros(4, np.int8),
        bias=np.ones(4, np.float32),
        packed=np.zeros((6, 1, 8), np.uint8),
        ps=np.ones(6, np.float32),
    )
    nodes = _by_name(graph)
    assert str(nodes["n_codes"].flops) == "24*batch*sequence"
    assert str(nodes["n_codes"].written_bytes) == "8*batch*sequence"  # one byte a code
    assert str(nodes["n_y"].flops) == "72*batch*sequence"  # 2*8*4, scale and bias of 4
    assert str(nodes["n_y"].weight_bytes) == str(32 + 4 + 16 + 1 + 4 + 16)
    assert nodes["n_y"].integer
    assert str(nodes["n_z"].flops) == "96*batch*sequence + 96"  # 2*8*6, and 2*8*6 to unpack
    assert nodes["n_z"].problem is None


def test_attention_over_a_cache_grows_with_the_past(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, 4, sequence, 2] q, float[batch, 2, sequence, 2] k,
              float[batch, 2, sequence, 2] v, float[batch, 2, past, 2] pk,
              float[batch, 2, past, 2] pv) => (float[batch, 4, sequence, 2] y)
        { y, nk, nv = Attention<is_causal = 1>(q, k, v, , pk, pv) }"""
    )
    (node,) = count(graph).nodes
    # 4 heads of width 2: 4 (2*2 + 2*2 + 5 + scale + cause) = 60 for each query and key
    assert str(node.flops) == "60*batch*past*sequence + 60*batch*sequence*sequence"


def test_shapes_of_foreign_operators_are_inferred(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, sequence, 8] x) => (float[batch, sequence, 8] y)
        {
            a = com.microsoft.BiasGelu(x, b)
            c = com.microsoft.MultiHeadAttention<num_heads = 2>(a, x, x)
            y = com.microsoft.SkipLayerNormalization(c, x, b, b)
        }""",
        b=np.ones(8, np.float32),
    )
    for value in (node.outputs[0] for node in list(graph.model.graph)[:2]):
        assert value.shape is None
    nodes = _by_name(graph)
    assert str(nodes["n_a"].flops) == "48*batch*sequence"
    assert str(nodes["n_c"].flops) == "44*batch*sequence*sequence"
    assert str(nodes["n_y"].flops) == "68*batch*sequence"  # 7 + 1 a channel, 4 a row
    assert not count(graph).problems
    first = next(iter(graph.model.graph))
    assert first.outputs[0].shape is None  # the graph itself is not changed


def test_images_in_the_blocked_layout(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, 3, 32, 32] x) => (float[batch, 8, 4, 4] y)
        {
            c = com.microsoft.FusedConv<kernel_shape = [8, 8], strides = [8, 8]>(x, w, b)
            y = com.microsoft.ReorderOutput<channels = 8>(c)
        }""",
        w=np.ones((8, 3, 8, 8), np.float32),
        b=np.ones(8, np.float32),
    )
    graph.model.opset_imports["com.microsoft.nchwc"] = 1
    for node in graph.model.graph:
        node.domain = "com.microsoft.nchwc"
        node.op_type = node.op_type.removeprefix("Fused")
    nodes = _by_name(graph)
    assert str(nodes["n_c"].flops) == "49280*batch"  # 8*4*4 windows, 2*3*8*8 and a bias each
    assert str(nodes["n_y"].moved_bytes) == "1024*batch"
    assert not count(graph).problems


def test_an_unknown_operator_is_named_and_counted_as_movement(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, 8] x) => (float[batch, 8] y)
        { a = Mish(x)  y = Relu(a) }"""
    )
    node = _by_name(graph)["n_a"]
    assert node.kind == "unknown"
    assert node.problem == "no formula for Mish: counted as movement of its bytes"
    assert str(node.moved_bytes) == "64*batch"
    assert [problem.name for problem in count(graph).problems] == ["n_a"]


def test_a_node_of_unknown_shape_is_named(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, 8] x) => (float[batch, 8] y)
        { a = com.microsoft.Strange(x)  y = Relu(a) }"""
    )
    said = {problem.name: problem.problem for problem in count(graph).problems}
    assert said["n_a"] == "com.microsoft::Strange is not counted: the type of 'a' is not known"


def test_an_output_that_nobody_reads_is_not_written(parse: Parse) -> None:
    graph = parse(
        """g (float[batch, 8] x) => (float[batch, 4] y)
        { y, z = Split<axis = 1, num_outputs = 2>(x) }"""
    )
    (node,) = count(graph).nodes
    assert str(node.written_bytes) == "16*batch"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.layer.3.attention.self/MatMul", "layer 3"),
        ("/model/layers.11/mlp/Add", "layer 11"),
        ("transformer.h.0.attn/Softmax", "layer 0"),
        ("embeddings/Add_1", ""),
        ("BiasGelu_token_2", ""),
    ],
)
def test_layers_are_read_from_names(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_every_row_says_its_formula() -> None:
    assert all(row.text and row.kind for row in OPERATORS.values())
