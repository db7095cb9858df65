"""Shapes and contents the analysis claims are compared with what running the graph gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.normalize import infer_shapes
from fuselage.passes.normalize.infer_shapes import InferShapes, RestoreOutputs
from fuselage.passes.shapes.analysis import analyse
from fuselage.passes.shapes.facts import Fact

CALLS = {"floor": math.floor, "Min": min, "Max": max}
INPUTS = "int64[batch, sequence] ids, float[batch, 2, past, 4] cache, float[batch, sequence, 8] x"
SIZES = ({"batch": 2, "sequence": 3, "past": 0}, {"batch": 1, "sequence": 1, "past": 5},
         {"batch": 3, "sequence": 7, "past": 2})  # fmt: skip
CONSTANTS = {
    "i0": np.array(0), "i1": np.array(1), "i2": np.array(2), "minus": np.array(-1),
    "v0": np.array([0]), "v1": np.array([1]), "v2": np.array([2]), "vminus": np.array([-1]),
    "v12": np.array([1, 2]), "heads": np.array([2]), "width": np.array([4]),
    "most": np.array([2**63 - 1]), "ones": np.array([1, 1]), "half": np.array([1, 3, 4]),
    "table": np.zeros((9, 4), np.float32), "w": np.zeros((8, 5), np.float32),
    "position": np.arange(6)[None],
}  # fmt: skip
SIZE = "s = Shape(x)\n b = Gather(s, i0)\n n = Gather(s, i1)\n"
VECTORS = SIZE + "ub = Unsqueeze(b, v0)\n un = Unsqueeze(n, v0)\n"

BODIES = {
    "a split of heads": VECTORS + "to = Concat<axis = 0>(ub, un, heads, vminus)\n"
    "h = Reshape(x, to)\n y = Transpose<perm = [0, 2, 3, 1]>(h)",
    "merged rows": VECTORS + "m = Mul(b, n)\n um = Unsqueeze(m, v0)\n"
    "to = Concat<axis = 0>(um, vminus)\n y = Reshape(x, to)",
    "a guarded Expand": VECTORS + "c = Concat<axis = 0>(ub, vminus, un)\n r = Reshape(c, vminus)\n"
    "q = Shape(r)\n o = ConstantOfShape<value = int64[1] {1}>(q)\n k = Mul(o, minus)\n"
    "e = Equal(r, k)\n t = Where(e, o, r)\n d = Unsqueeze(x, v1)\n z = Gather(d, i0)\n"
    "z2 = ReduceSum<keepdims = 0>(d, v2)\n a = ReduceMax<keepdims = 1>(z2, v2)\n"
    "y = Expand(a, t)",
    "a grown cache": "k = Reshape(x, kto)\n kt = Transpose<perm = [0, 2, 1, 3]>(k)\n"
    "all = Concat<axis = -2>(cache, kt)\n t = Transpose<perm = [0, 1, 3, 2]>(all)\n"
    "p = MatMul(kt, t)\n y = Softmax(p)",
    "positions": "c = Shape<start = 2, end = 3>(cache)\n p = Squeeze(c)\n" + SIZE +
    "t = Add(p, n)\n r = Range(i0, t, i1)\n q = Range(p, t, i1)\n u = Unsqueeze(q, v1)\n"
    "l = LessOrEqual(r, u)\n y = Cast<to = 1>(l)",
    "a cut table": VECTORS + "y = Slice(position, v0, un, v1, v1)",
    "the last rows of a table": VECTORS + "m = Mul(un, vminus)\n"
    "y = Slice(position, m, most, v1)",
    "the last token": "y = Slice(x, vminus, most, v1)",
    "half of each": "y = Slice(x, v0, width, v2)",
    "a backward slice": "y = Slice(x, vminus, lowest, v2, vminus)",
    "half a length": SIZE + "h = Div(n, i2)\n r = Range(i0, h, i1)\n y = Cast<to = 1>(r)",
    "a divided product": SIZE + "m = Mul(b, i2)\n d = Div(m, i2)\n r = Range(i0, d, i1)\n"
    "y = Cast<to = 1>(r)",
    "an embedding": "g = Gather(table, small)\n y = Cast<to = 10>(g)",
    "a gather of pairs": "f = Cast<to = 9>(ids)\n y = GatherND(f, pairs)",
    "reductions": "a = ReduceMean<keepdims = 0>(x, v12)\n y = ReduceSum<keepdims = 1>(x)",
    "a flat Gemm": "f = Reshape(x, rows)\n y = Gemm(f, w)",
    "parts": "y, z = Split<axis = -1, num_outputs = 2>(x)",
    "uneven parts": "y, z, t = Split<axis = 2>(x, half)",
    "padding": "y = Pad(x, pads)",
    "tiles": VECTORS + "r = Concat<axis = 0>(v1, un, v1)\n y = Tile(x, r)",
    "the product of a shape": SIZE + "p = ReduceProd<keepdims = 1>(s)\n y = ConstantOfShape(p)",
    "a convolution": "u = Unsqueeze(x, v1)\n y = Conv<pads = [1, 1, 1, 1]>(u, kernel)",
    "one hot": "y = OneHot(ids, depth, pair)",
    "choices": SIZE + "g = Greater(n, i0)\n k = Less(n, minus)\n a = And(g, k)\n o = Or(g, k)\n"
    "t = Not(k)\n q = Where(k, i2, n)\n r = Range(i0, q, i1)\n y = Cast<to = 1>(r)",
}  # fmt: skip
MORE = {
    "kto": np.array([0, 0, 2, 4]), "lowest": np.array([-(2**63)]), "small": np.array([[1, 2, 3]]),
    "pairs": np.zeros((2, 5, 2), np.int64), "rows": np.array([-1, 8]),
    "pads": np.array([0, 1, 0, 0, 2, 0]), "kernel": np.ones((2, 1, 3, 3), np.float32),
    "depth": np.array(4), "pair": np.array([0.0, 1.0], np.float32),
}  # fmt: skip


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str) -> ir.Model:
        model: ir.Model = parse(f"shapes ({INPUTS}) => (float y) {{ {body} }}", **CONSTANTS, **MORE)
        for value in tuple(model.graph.initializers.values()):
            if not value.uses():
                del model.graph.initializers[value.name]
        model.graph.outputs[0].shape = None
        model.graph.outputs[0].type = None
        return model

    return make


def feeds(sizes: dict[str, int]) -> dict[str, Any]:
    batch, sequence, past = sizes["batch"], sizes["sequence"], sizes["past"]
    return {
        "ids": np.ones((batch, sequence), np.int64),
        "cache": np.ones((batch, 2, past, 4), np.float32),
        "x": np.ones((batch, sequence, 8), np.float32),
    }


def check(fact: Fact, array: Any, sizes: dict[str, int]) -> None:
    def number(dim: Any) -> int:
        return int(eval(dim, {**CALLS, **sizes})) if isinstance(dim, str) else int(dim)

    assert fact.dtype is not None
    assert fact.shape is not None
    assert fact.dtype.numpy() == array.dtype
    assert tuple(map(number, fact.shape)) == array.shape
    for claimed, got in zip(fact.content or (), array.reshape(-1).tolist(), strict=False):
        assert claimed is None or number(claimed) == got


@pytest.mark.parametrize("name", BODIES)
def test_every_value_has_the_shape_and_content_that_is_claimed(
    build: Any, run: Any, name: str
) -> None:
    model = build(BODIES[name])
    facts = analyse(model)
    InferShapes()(model)
    values = [value for node in model.graph for value in node.outputs]
    claims = {value.name: facts[value] for value in values}
    assert all(fact.shape is not None for fact in claims.values())
    outputs = {value.name for value in model.graph.outputs}
    model.graph.outputs.extend(value for value in values if value.name not in outputs)
    for sizes in SIZES:
        for value_name, array in run(model, feeds(sizes)).items():
            if any("y_" in str(dim) for dim in claims[value_name].shape or ()):
                continue  # a size that nothing tells has a name of its own
            check(claims[value_name], array, sizes)


EXPECTED = {
    "a split of heads": ("y", "[batch,2,4,sequence]"),
    "merged rows": ("y", "[batch*sequence,8]"),
    "a guarded Expand": ("y", "[batch,1,sequence]"),
    "a grown cache": ("y", "[batch,2,sequence,past + sequence]"),
    "positions": ("y", "[sequence,past + sequence]"),
    "a cut table": ("y", "[1,Min(6, sequence)]"),
    "half a length": ("y", "[floor(sequence / 2)]"),
    "a divided product": ("y", "[batch]"),
    "a flat Gemm": ("y", "[batch*sequence,5]"),
    "padding": ("y", "[batch,sequence + 3,8]"),
    "tiles": ("y", "[batch,sequence*sequence,8]"),
    "the product of a shape": ("y", "[8*batch*sequence]"),
    "choices": ("r", "[sequence]"),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_sizes_are_written_in_one_form(build: Any, name: str) -> None:
    model = build(BODIES[name])
    InferShapes()(model)
    value, wanted = EXPECTED[name]
    shapes = {value.name: str(value.shape) for node in model.graph for value in node.outputs}
    assert shapes[value] == wanted
    assert not InferShapes()(model).modified


def test_an_axis_that_is_added_twice_says_nothing(parse: Any) -> None:
    """The operator refuses it; the analysis must not fall over it."""
    model = parse(
        "net (float[b, s] x) => (float y) { u = Unsqueeze(x, twice)\n y = Neg(u) }",
        twice=np.array([1, 1], np.int64),
    )
    model.graph.outputs[0].shape = None
    InferShapes()(model)
    assert model.graph[0].outputs[0].shape is None


def test_sizes_that_an_operator_needs_equal_get_one_name(parse: Any) -> None:
    """Two caches whose lengths the exporter named apart meet in the sum over the keys."""
    model = parse(
        """caches (float[b, 2, p1, 4] k, float[b, 2, p2, 4] v, float[b, 2, s, 4] q)
        => (float[m, n, o, p] y)
        { keys = Concat<axis = 2>(k, q)
          values = Concat<axis = 2>(v, q)
          t = Transpose<perm = [0, 1, 3, 2]>(keys)
          scores = MatMul(q, t)
          y = MatMul(scores, values) }"""
    )
    InferShapes()(model)
    shapes = {value.name: str(value.shape) for node in model.graph for value in node.outputs}
    assert shapes["values"] == shapes["keys"] == "[b,2,p1 + s,4]"
    assert str(model.graph.inputs[1].shape) == "[b,2,p2,4]"  # declared names of inputs stay


def test_unrelated_sizes_are_never_taken_for_equal(parse: Any) -> None:
    model = parse(
        """two (float[b, s] x, float[c, s] z) => (float[m, n] y)
        { h = Add(x, z)
          y = Neg(h) }"""
    )
    InferShapes()(model)
    assert str(model.graph[0].outputs[0].shape) == "[Broadcast(b, c),s]"


def test_a_declared_name_is_taken_where_nothing_else_is_known(parse: Any) -> None:
    model = parse("own (float[b, 4] x) => (int64[2, found] y) { y = NonZero(x) }")
    InferShapes()(model)
    assert str(model.graph.outputs[0].shape) == "[2,found]"


def test_a_wrong_declaration_of_an_inner_value_is_corrected(parse: Any) -> None:
    """Files whose batch was made dynamic by hand keep the old sizes of inner values."""
    model = parse("stale (float[b, 4] x) => (float[b, 4] y) { h = Neg(x)\n y = Neg(h) }")
    model.graph[0].outputs[0].shape = ir.Shape([1, 4])
    InferShapes()(model)
    assert str(model.graph[0].outputs[0].shape) == "[b,4]"


def test_outputs_get_their_declared_names_back(parse: Any, apply: Any) -> None:
    model = parse(
        "named (float[b, s, 4] x) => (float[b, Negy_dim_1, 4] y, float[?, s, 4] z) "
        "{ y = Neg(x)\n z = Neg(y) }"
    )
    model.graph.outputs[1].shape = ir.Shape([None, "s", 4])
    after, _ = apply(InferShapes(), model)
    assert [str(value.shape) for value in after.graph.outputs] == ["[b,s,4]", "[b,s,4]"]
    again, outcome = apply(RestoreOutputs(), after)
    assert outcome.rewrites == 1
    assert [str(value.shape) for value in again.graph.outputs] == ["[b,Negy_dim_1,4]", "[b,s,4]"]
    assert not apply(RestoreOutputs(), again)[1].modified


def test_branches_are_typed_by_what_they_give(parse: Any) -> None:
    model = parse(
        """branch (bool c, float[b, 4] x) => (float[p, q] y)
        { h = If (c) <
            then_branch = g1 () => (float[b, 4] t) { t = Neg(x) },
            else_branch = g2 () => (float[b, 4] e) { e = Abs(x) }
          >
          y = Neg(h) }"""
    )
    InferShapes()(model)
    assert str(model.graph[0].outputs[0].shape) == "[b,4]"


@pytest.mark.parametrize(
    "body", ["h = Transpose<perm = [0, 9, 1]>(x)", "h = Reshape(x, x)", "h = Gather(x)",
             "h = Squeeze(x, x)", "h = Slice(x, i0)", "h = Concat(x, ids)", "h = Expand(x, x)",
             "h = MatMul(x, cache)", "h = Nonsense(x)", "h = Split<num_outputs = 0>(x)"],
)  # fmt: skip
def test_malformed_nodes_are_left_to_the_checks(build: Any, body: str) -> None:
    model = build(body + "\n y = Neg(h)")
    InferShapes()(model)
    assert model.graph[-1].outputs[0].name == "y"


def test_a_sequence_does_not_get_the_type_of_its_elements(parse: Any) -> None:
    """Upstream infers graphs with branches, and may say this of what splits a tensor."""
    model = parse(
        """net (float[b, 4] x) => (float y)
        { parts = SplitToSequence<axis = 1>(x, two)\n y = ConcatFromSequence<axis = 1>(parts) }""",
        two=np.array(2),
    )
    parts = model.graph[0].outputs[0]
    parts.type, parts.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", 4])
    infer_shapes._forget_elements(model.graph)
    assert (parts.type, parts.shape) == (None, None)
    InferShapes()(model)
    assert not isinstance(parts.type, ir.TensorType)
