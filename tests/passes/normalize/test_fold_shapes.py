"""Computed Reshape targets become constants; sizes are read from the inputs that have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.normalize.clean_up import CleanUp
from fuselage.passes.normalize.fold_shapes import FoldShapes
from fuselage.passes.normalize.infer_shapes import InferShapes

CONSTANTS = {
    "heads": np.array([2]),
    "width": np.array([4]),
    "hidden": np.array([8]),
    "minus": np.array([-1]),
    "one": np.array([1]),
    "zero": np.array([0]),
    "v0": np.array([0]),
    "v1": np.array([1]),
    "i0": np.array(0),
    "i1": np.array(1),
    "m1": np.array(-1),
}


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, inputs: str = "float[b, s, 8] x", outputs: str = "float[p, q, r] y") -> Any:
        model = parse(f"shapes ({inputs}) => ({outputs}) {{ {body} }}", **CONSTANTS)
        InferShapes()(model)
        return model

    return make


SIZES = "b0 = Shape<start = 0, end = 1>(x)\n s0 = Shape<start = 1, end = 2>(x)\n"
X = {"x": np.arange(3 * 7 * 8, dtype=np.float32).reshape(3, 7, 8)}
ONE = {"x": np.ones((1, 1, 8), np.float32)}


def targets(model: ir.Model) -> list[list[int]]:
    return [
        node.inputs[1].const_value.numpy().tolist()
        for node in model.graph
        if node.op_type == "Reshape"
    ]


def test_a_split_of_heads_becomes_constant(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(
        SIZES + "to = Concat<axis = 0>(b0, s0, heads, width)\n y = Reshape<allowzero = 1>(x, to)",
        outputs="float[b, s, 2, 4] y",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["Reshape"]
    assert targets(after) == [[0, 0, 2, 4]]
    assert "allowzero" not in after.graph[0].attributes  # the zeros must copy
    same_numbers(model, after, X, ONE, atol=0, rtol=0)
    _, second = apply(FoldShapes(), after)
    assert not second.modified


def test_a_merge_of_batch_and_sequence_uses_one_unknown(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(
        SIZES + "n = Mul(b0, s0)\n to = Concat<axis = 0>(n, hidden)\n y = Reshape(x, to)",
        outputs="float[p, q] y",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert targets(after) == [[-1, 8]]
    same_numbers(model, after, X, ONE, atol=0, rtol=0)


def test_swapped_sizes_are_two_unknowns(build: Any, apply: Any) -> None:
    """[s, b, 8] has neither size where the input has it: two -1 would be ambiguous."""
    model = build(SIZES + "to = Concat<axis = 0>(s0, b0, hidden)\n y = Reshape(x, to)")
    after, outcome = apply(FoldShapes(), model)
    assert not outcome.modified
    assert "Concat" in [node.op_type for node in after.graph]


def test_one_size_in_another_place_is_the_unknown(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(
        SIZES + "t = Transpose<perm = [1, 0, 2]>(x)\n to = Concat<axis = 0>(s0, heads, b0, width)\n"
        "y = Reshape(t, to)",
        outputs="float[s, 2, b, 4] y",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert targets(after) == [[0, 2, -1, 4]]
    same_numbers(model, after, X, ONE, atol=0, rtol=0)


def test_unnamed_sizes_are_equal_to_themselves_alone(build: Any, apply: Any) -> None:
    body = SIZES + "to = Concat<axis = 0>(b0, s0, heads, width)\n y = Reshape({data}, to)"
    inputs = "float[?, ?, 8] x, float[?, ?, 8] z"
    for data, wanted in (("x", [[0, 0, 2, 4]]), ("z", None)):
        model = build(body.format(data=data), inputs, "float[p, q, r, t] y")
        for value in model.graph.inputs:
            value.shape = ir.Shape([None, None, 8])
        after, _ = apply(FoldShapes(), model)
        if wanted is None:
            assert "Concat" in [node.op_type for node in after.graph]
        else:
            assert targets(after) == wanted


def test_an_empty_axis_is_left_to_allowzero(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(
        SIZES + "to = Concat<axis = 0>(b0, s0, zero)\n y = Reshape<allowzero = 1>(x, to)",
        "float[b, s, 0] x",
        "float[b, s, 0] y",
    )
    after, _ = apply(FoldShapes(), model)
    (reshape,) = [node for node in after.graph if node.op_type == "Reshape"]
    assert reshape.inputs[1].const_value is None
    assert reshape.attributes["allowzero"].as_int() == 1
    same_numbers(model, after, {"x": np.ones((2, 3, 0), np.float32)}, atol=0, rtol=0)


def test_a_length_that_may_be_0_is_copied(build: Any, apply: Any, same_numbers: Any) -> None:
    """A cache starts empty; a -1 beside its length would have no answer."""
    model = build(
        "p = Shape<start = 2, end = 3>(x)\n b = Shape<start = 0, end = 1>(x)\n"
        "to = Concat<axis = 0>(b, width, p, heads)\n y = Reshape<allowzero = 1>(x, to)",
        "float[b, 4, past, 2] x",
        "float[b, 4, past, 2] y",
    )
    after, _ = apply(FoldShapes(), model)
    assert targets(after) == [[0, 4, 0, 2]]
    for past in (0, 3):
        x = np.ones((2, 4, past, 2), np.float32)
        same_numbers(model, after, {"x": x}, atol=0, rtol=0)


def test_an_unknown_rank_is_left_alone(build: Any) -> None:
    model = build(SIZES + "to = Concat<axis = 0>(b0, s0, hidden)\n y = Reshape(x, to)")
    model.graph.inputs[0].shape = None
    assert not FoldShapes()(model).modified


def test_a_shared_target_stays_for_its_other_reader(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(
        SIZES + "to = Concat<axis = 0>(b0, s0, heads, width)\n y = Reshape(x, to)\n z = Neg(to)",
        outputs="float[b, s, 2, 4] y, int64[4] z",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    same_numbers(model, after, X, atol=0, rtol=0)


def test_sizes_of_inner_tensors_are_read_from_the_input(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(
        "h = Neg(x)\n n = Shape<start = 1, end = 2>(h)\n w = Shape<start = 2, end = 3>(h)\n"
        "y = ConstantOfShape(n)\n z = ConstantOfShape(w)",
        inputs="int64[b, s] ids, float[b, s, 8] x",
        outputs="float[s] y, float[8] z",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 2
    (shape,) = [node for node in after.graph if node.op_type == "Shape"]
    assert shape.inputs[0].name == "ids"  # the first input that has the size
    assert (shape.attributes["start"].as_int(), shape.attributes["end"].as_int()) == (1, 2)
    same_numbers(model, after, X | {"ids": np.ones((3, 7), np.int64)}, atol=0, rtol=0)
    _, second = apply(FoldShapes(), after)
    assert not second.modified


LEGACY = """h = Neg(x)
    s = Shape(h)
    b = Gather(s, i0)
    n = Gather(s, i1)
    ub = Unsqueeze(b, v0)
    un = Unsqueeze(n, v0)
    c = Concat<axis = 0>(ub, minus, un, hidden)
    r = Reshape(c, minus)
    q = Shape(r)
    o = ConstantOfShape<value = int64[1] {1}>(q)
    k = Mul(o, m1)
    e = Equal(r, k)
    t = Where(e, o, r)
    f = Unsqueeze(h, v1)
    y = Expand(f, t)
    d = Add(n, n)
    p = Range(i0, d, i1)
    z = Cast<to = 1>(p)"""


def test_the_guard_around_expand_and_sums_of_sizes_are_written_from_inputs(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    """The TorchScript exporter guards every Expand against -1, which no size is."""
    model = build(LEGACY, outputs="float[b, 1, s, 8] y, float[t] z")
    after, _ = apply(FoldShapes(), model)
    after, _ = apply(CleanUp(), after)
    kinds = [node.op_type for node in after.graph]
    assert sorted(kinds) == sorted(
        ["Shape", "Shape", "Concat", "Mul", "Squeeze", "Neg", "Unsqueeze", "Expand", "Range",
         "Cast"]
    )  # fmt: skip
    assert all(n.inputs[0].name == "x" for n in after.graph if n.op_type == "Shape")
    same_numbers(model, after, X, ONE, atol=0, rtol=0)
    assert not apply(FoldShapes(), after)[1].modified


def test_equal_chains_of_two_layers_become_one(build: Any, apply: Any) -> None:
    layer = (
        "h{0} = Neg({1})\n n{0} = Shape<start = 1, end = 2>(h{0})\n r{0} = ConstantOfShape(n{0})\n"
    )
    model = build(layer.format(0, "x") + layer.format(1, "h0") + "y = Add(r0, r1)",
                  outputs="float[s] y")  # fmt: skip
    after, _ = apply(FoldShapes(), model)
    assert [node.op_type for node in after.graph].count("Shape") == 1


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [("start = -1", [8]), ("start = 2, end = 9", [8]), ("start = 1, end = 1", []),
     ("start = 2, end = -5", [])],
)  # fmt: skip
def test_static_sizes_become_constants(
    build: Any, apply: Any, same_numbers: Any, attributes: str, wanted: list[int]
) -> None:
    model = build(f"n = Shape<{attributes}>(x)\n y = ConstantOfShape(n)", outputs="float[n] y")
    model.graph.outputs[0].shape = ir.Shape(wanted)
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert after.graph[0].inputs[0].const_value.numpy().tolist() == wanted
    same_numbers(model, after, X, atol=0, rtol=0)


def test_sizes_that_are_outputs_stay(build: Any, apply: Any) -> None:
    model = build("h = Neg(x)\n y = Shape(h)\n z = Shape<start = 2>(x)",
                  outputs="int64[3] y, int64[1] z")  # fmt: skip
    assert not apply(FoldShapes(), model)[1].modified


def test_a_size_beyond_the_rank_of_the_input_is_the_unknown(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(
        "b0 = Shape(x)\n to = Concat<axis = 0>(one, b0)\n y = Reshape(x, to)",
        inputs="float[b] x",
        outputs="float[1, b] y",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert targets(after) == [[1, -1]]
    same_numbers(model, after, {"x": np.ones(5, np.float32)}, atol=0, rtol=0)


def test_foreign_operators_of_the_same_name_are_left_alone(build: Any) -> None:
    model = build("y = com.microsoft.Shape<start = 2>(x)", outputs="int64[1] y")
    assert not FoldShapes()(model).modified
