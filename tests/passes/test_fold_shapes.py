"""Computed Reshape targets become constants; sizes are read from the inputs that have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.clean_up import InferShapes
from fuselage.passes.fold_shapes import FoldShapes

CONSTANTS = {
    "heads": np.array([2]),
    "width": np.array([4]),
    "hidden": np.array([8]),
    "minus": np.array([-1]),
    "one": np.array([1]),
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


def test_unnamed_sizes_are_never_taken_for_equal(build: Any, apply: Any) -> None:
    model = build(SIZES + "to = Concat<axis = 0>(b0, s0, heads, width)\n y = Reshape(x, to)",
                  outputs="float[p, q, r, t] y")  # fmt: skip
    model.graph.inputs[0].shape = ir.Shape([None, None, 8])
    model.graph.outputs[0].shape = ir.Shape([None, None, 2, 4])
    after, outcome = apply(FoldShapes(), model)
    assert not outcome.modified
    assert "Concat" in [node.op_type for node in after.graph]


def test_an_empty_axis_is_left_to_allowzero(build: Any, apply: Any) -> None:
    model = build(SIZES + "to = Concat<axis = 0>(b0, s0, hidden)\n y = Reshape(x, to)")
    model.graph.outputs[0].shape = ir.Shape(["b", "s", 0])
    assert not apply(FoldShapes(), model)[1].modified


@pytest.mark.parametrize("where", ["x", "y"])
def test_unknown_ranks_are_left_alone(build: Any, where: str) -> None:
    model = build(SIZES + "to = Concat<axis = 0>(b0, s0, hidden)\n y = Reshape(x, to)")
    value = {"x": model.graph.inputs[0], "y": model.graph.outputs[0]}[where]
    value.shape = None
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
        "y = Identity(n)\n z = Identity(w)",
        inputs="int64[b, s] ids, float[b, s, 8] x",
        outputs="int64[1] y, int64[1] z",
    )
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 2
    (shape,) = [node for node in after.graph if node.op_type == "Shape"]
    assert shape.inputs[0].name == "ids"  # the first input that has the size
    assert (shape.attributes["start"].as_int(), shape.attributes["end"].as_int()) == (1, 2)
    same_numbers(model, after, X | {"ids": np.ones((3, 7), np.int64)}, atol=0, rtol=0)
    _, second = apply(FoldShapes(), after)
    assert not second.modified


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [("start = -1", [8]), ("start = 2, end = 9", [8]), ("start = 1, end = 1", []),
     ("start = 2, end = -5", [])],
)  # fmt: skip
def test_static_sizes_become_constants(
    build: Any, apply: Any, same_numbers: Any, attributes: str, wanted: list[int]
) -> None:
    model = build(f"n = Shape<{attributes}>(x)\n y = Identity(n)", outputs="int64[n] y")
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert after.graph[0].inputs[0].const_value.numpy().tolist() == wanted
    same_numbers(model, after, X, atol=0, rtol=0)


def test_a_static_size_that_is_a_graph_output_keeps_its_name(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build("y = Shape<start = 2>(x)\n z = Neg(x)", outputs="int64[1] y, float[b, s, 8] z")
    after, outcome = apply(FoldShapes(), model)
    assert outcome.rewrites == 1
    assert [value.name for value in after.graph.outputs] == ["y", "z"]
    same_numbers(model, after, X, atol=0, rtol=0)


def test_whole_shapes_stay(build: Any, apply: Any) -> None:
    model = build("h = Neg(x)\n y = Shape(h)", outputs="int64[3] y")
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
