"""The rule engine, and the questions rules ask of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes import constants
from fuselage.passes.rewrite import RewritePass, RewriteRule, remove_dead


class NegNeg(RewriteRule):
    """``-(-x) -> x + 0``, refused for a value called ``kept``."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(op.Neg(x))

    def refuse(self, values: dict[str, ir.Value]) -> str | None:
        return "x is kept" if values["x"].name == "kept" else None

    def replace(self, tape: ir.tape.Tape, values: dict[str, ir.Value]) -> ir.Value:
        return tape.op("Abs", [values["x"]])


class AnyNeg(RewriteRule):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(x)

    def refuse(self, values: dict[str, ir.Value]) -> str | None:
        return "never" if values else None

    def replace(self, tape: ir.tape.Tape, values: dict[str, ir.Value]) -> ir.Value:
        raise AssertionError(tape, values)


@dataclass(frozen=True)
class Doubles(RewritePass):
    name = "doubles"
    rules = (NegNeg(),)


@dataclass(frozen=True)
class Both(RewritePass):
    name = "both"
    rules = (AnyNeg(), NegNeg())


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_matches_are_replaced_and_outputs_keep_their_names(parse: Any, apply: Any) -> None:
    model = parse("neg (float[b, 4] x) => (float[b, 4] y) { a = Neg(x)\n y = Neg(a) }")
    after, outcome = apply(Doubles(), model)
    assert outcome.rewrites == 1
    assert kinds(after) == ["Abs"]
    y = after.graph.outputs[0]
    assert (y.name, y.dtype, str(y.shape)) == ("y", ir.DataType.FLOAT, "[b,4]")
    assert kinds(model) == ["Neg", "Neg"]


@pytest.mark.parametrize(
    "text",
    [
        "neg (float[b] x) => (float[b] y, float[b] z) { a = Neg(x)\n y = Neg(a)\n z = Exp(a) }",
        "neg (float[b] x) => (float[b] y, float[b] a) { a = Neg(x)\n y = Neg(a) }",
    ],
)
def test_inner_nodes_that_others_read_stay(
    parse: Any, apply: Any, same_numbers: Any, text: str
) -> None:
    model = parse(text)
    after, _ = apply(Doubles(), model)
    assert "Neg" in kinds(after)
    same_numbers(model, after, {"x": np.ones(3, np.float32)}, atol=0, rtol=0)


def test_a_refusal_names_rule_node_and_reason(parse: Any, apply: Any) -> None:
    model = parse("neg (float[b] kept) => (float[b] y) { a = Neg(kept)\n y = Neg(a) }")
    after, outcome = apply(Doubles(), model)
    assert not outcome.modified
    (refusal,) = outcome.refusals
    assert (refusal.rule, refusal.node, refusal.reason) == ("NegNeg", "n_y", "x is kept")
    assert kinds(after) == ["Neg", "Neg"]


def test_the_next_rule_gets_its_turn_after_a_refusal(parse: Any, apply: Any) -> None:
    model = parse("neg (float[b] x) => (float[b] y) { a = Neg(x)\n y = Neg(a) }")
    _, outcome = apply(Both(), model)
    assert outcome.rewrites == 1
    assert [refusal.reason for refusal in outcome.refusals] == ["never", "never"]


def test_chains_are_matched_once_a_node(parse: Any, apply: Any) -> None:
    model = parse(
        "neg (float[b] x) => (float[b] y) { a = Neg(x)\n c = Neg(a)\n d = Neg(c)\n y = Neg(d) }"
    )
    after, outcome = apply(Doubles(), model)
    assert outcome.rewrites == 2
    assert kinds(after) == ["Abs", "Abs"]


def test_foreign_nodes_of_the_same_name_do_not_match(parse: Any, apply: Any) -> None:
    model = parse("neg (float[b] x) => (float[b] y) { a = com.microsoft.Neg(x)\n y = Neg(a) }")
    assert not apply(Doubles(), model)[1].modified


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
