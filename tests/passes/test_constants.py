"""The questions passes ask of a graph, and what they remove from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes import constants
from fuselage.passes.constants import remove_dead


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_dead_nodes_go_with_their_producers(parse: Any) -> None:
    model = parse(
        "dead (float[b] x) => (float[b] y) { a = Neg(x)\n c = Exp(a)\n d = Abs(c)\n y = Cos(a) }"
    )
    remove_dead(model.graph[2])
    assert kinds(model) == ["Neg", "Cos"]
    remove_dead(model.graph[1])  # an output is never dead
    assert kinds(model) == ["Neg", "Cos"]


@pytest.fixture
def asked(parse: Any) -> ir.Model:
    model: ir.Model = parse(
        """asked (float[b, 4] x) => (float[b, 4] y, float[b, 4] a)
        { a = Mul(x, scalar)
          c = Mul(a, row)
          d = Reshape(c, target)
          y = com.microsoft.Neg(d) }""",
        scalar=np.full((1, 1), 3, np.float32),
        row=np.arange(4, dtype=np.float32),
        target=np.array([-1, 4]),
    )
    return model


def test_questions_about_constants(asked: ir.Model) -> None:
    scalar, row, target = (asked.graph.initializers[n] for n in ("scalar", "row", "target"))
    x = asked.graph.inputs[0]
    assert constants.scalar_of(scalar) == 3
    assert constants.scalar_of(row) is constants.scalar_of(x) is constants.scalar_of(None) is None
    assert constants.ints_of(target) == (-1, 4)
    assert constants.ints_of(row) is None
    assert constants.array_of(row) is not None
    assert constants.scalar_mismatch("k", scalar, 3.002) is None
    assert constants.scalar_mismatch("k", scalar, 3.1) == "k is 3, not 3.1"
    assert constants.scalar_mismatch("k", row, 3) == "k is not a scalar constant"


def test_large_integer_tables_are_no_shapes(parse: Any) -> None:
    model = parse("t (int64[b] x) => (int64[b] y) { y = Add(x, big) }", big=np.arange(65))
    assert constants.ints_of(model.graph.initializers["big"]) is None


def test_questions_about_neighbours(asked: ir.Model) -> None:
    a, c, d, _ = (node.outputs[0] for node in asked.graph)
    assert constants.producer(a, "Mul") is asked.graph[0]
    assert constants.producer(a, "Add", "Div") is None
    assert constants.producer(asked.graph.inputs[0], "Mul") is None
    assert constants.producer(asked.graph[3].outputs[0], "Neg") is None  # a foreign domain
    assert constants.sole_consumer(c, "Reshape") is asked.graph[2]
    assert constants.sole_consumer(c, "Mul") is None
    assert constants.sole_consumer(a, "Mul") is None  # a graph output is read outside
    assert constants.sole_consumer(d, "Neg") is None  # a foreign domain
    assert constants.static_dim(asked.graph.inputs[0], 1) == 4
    assert constants.static_dim(asked.graph.inputs[0], 0) is None
    assert constants.static_dim(asked.graph.inputs[0], 2) is None
    assert constants.static_dim(asked.graph.inputs[0], -3) is None


def test_two_readers_are_not_sole(parse: Any) -> None:
    model = parse("t (float[b] x) => (float[b] y) { a = Neg(x)\n c = Abs(a)\n y = Add(a, c) }")
    assert constants.sole_consumer(model.graph[0].outputs[0], "Abs", "Add") is None
    assert constants.sole_consumer(model.graph[1].outputs[0], "Abs", "Add") is model.graph[2]


def test_new_constants_take_free_names(asked: ir.Model) -> None:
    names = [constants.initializer(asked.graph, "row", np.ones(2)).name for _ in range(3)]
    assert names == ["row_2", "row_3", "row_4"]
    assert asked.graph.initializers["row"].const_value.numpy().shape == (4,)


def test_an_output_that_is_replaced_by_a_constant_keeps_its_name(parse: Any, run: Any) -> None:
    model = parse("c (float[2] x) => (float[2] y) { y = Neg(x) }")
    node, new = model.graph[0], constants.initializer(model.graph, "new", np.ones(2, np.float32))
    constants.replace_value(node.outputs[0], new)
    remove_dead(node)
    assert list(model.graph.initializers) == ["y"]
    assert run(model, {"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 1]
