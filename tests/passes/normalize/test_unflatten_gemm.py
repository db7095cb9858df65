"""Linear layers over rows become linear layers over batch and sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.graph.history import Refusal
from fuselage.passes.normalize.unflatten_gemm import UnflattenGemm

# As GPT-2's Conv1D is exported.
BODY = """rows = Reshape(x, flat)
    g = Gemm{attributes}(rows, w{bias})
    n = Shape<start = 0, end = 2>(x)
    to = Concat<axis = 0>(n, five)
    y = Reshape(g, to)"""
X = {"x": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
ONE = {"x": np.ones((1, 1, 4), np.float32)}


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(
        attributes: str = "",
        bias: str = ", c",
        body: str = BODY,
        *,
        inputs: str = "float[b, s, 4] x",
        outputs: str = "float[b, s, 5] y",
        **constants: Any,
    ) -> Any:
        weight = rng.normal(size=(5, 4) if "transB" in attributes else (4, 5))
        held = {
            "flat": np.array([-1, 4]), "five": np.array([5]), "w": weight.astype(np.float32),
            "c": rng.normal(size=5).astype(np.float32), **constants,
        }  # fmt: skip
        text = body.format(attributes=attributes, bias=bias)
        model = parse(f"conv1d ({inputs}) => ({outputs}) {{ {text} }}", **held)
        for value in tuple(model.graph.initializers.values()):
            if not value.uses():
                del model.graph.initializers[value.name]
        return model

    return make


def kinds(model: Any) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("attributes", "bias", "wanted"),
    [
        ("", ", c", ["MatMul", "Add"]),
        ("<alpha = 1.0, beta = 1.0>", ", c", ["MatMul", "Add"]),
        ("", "", ["MatMul"]),
        ("<beta = 0.5>", ", c", ["MatMul", "Add"]),
        ("<transB = 1>", ", c", ["MatMul", "Add"]),
    ],
)
def test_a_gemm_between_reshapes_becomes_a_product_of_three_dimensions(
    build: Any, apply: Any, same_numbers: Any, attributes: str, bias: str, wanted: list[str]
) -> None:
    model = build(attributes, bias)
    after, outcome = apply(UnflattenGemm(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    assert kinds(after) == wanted
    assert [value.name for value in after.graph.outputs] == ["y"]
    assert after.graph.initializers["w"].const_value is model.graph.initializers["w"].const_value
    same_numbers(model, after, X, ONE, atol=1e-6, rtol=1e-6)
    assert not apply(UnflattenGemm(), after)[1].modified


def test_a_weight_that_others_read_is_transposed_in_the_graph(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build("<transB = 1>", body=BODY + "\n p = Neg(w)", outputs="float y, float[5, 4] p")
    after, outcome = apply(UnflattenGemm(), model)
    assert outcome.rewrites == 1
    assert kinds(after) == ["Transpose", "MatMul", "Add", "Neg"]
    same_numbers(model, after, X, atol=1e-6, rtol=1e-6)


def test_a_row_of_biases_is_one_a_column(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(c=np.arange(5, dtype=np.float32)[None])
    after, _ = apply(UnflattenGemm(), model)
    assert kinds(after) == ["MatMul", "Add"]
    same_numbers(model, after, X, atol=1e-6, rtol=1e-6)


def test_merged_heads_are_merged_in_three_dimensions(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    """The exporter merges the heads and flattens to rows in one Reshape."""
    model = build(inputs="float[b, s, 2, 2] x")
    after, outcome = apply(UnflattenGemm(), model)
    assert outcome.rewrites == 1
    assert kinds(after) == ["Reshape", "MatMul", "Add"]
    assert after.graph[0].inputs[1].const_value.numpy().tolist() == [0, 0, 4]
    x = np.random.default_rng(1).normal(size=(2, 3, 2, 2)).astype(np.float32)
    same_numbers(model, after, {"x": x}, atol=1e-6, rtol=1e-6)


def test_two_readers_of_the_rows_get_the_same_product(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    body = BODY + "\n z = Reshape(g, to)\n p = Neg(z)"
    model = build(body=body, outputs="float[b, s, 5] y, float[b, s, 5] p")
    after, _ = apply(UnflattenGemm(), model)
    assert kinds(after) == ["MatMul", "Add", "Neg"]
    same_numbers(model, after, X, atol=1e-6, rtol=1e-6)


REFUSED = {
    "<alpha = 0.5>": ({}, "its product is scaled by 0.5"),
    "<transA = 1>": ({}, "it reads its rows transposed"),
    "": (
        {"c": np.ones((6, 5), np.float32)},
        "its bias has shape [6, 5], expected one a column",
    ),
}


@pytest.mark.parametrize("attributes", REFUSED)
def test_what_is_more_than_a_linear_layer_is_refused(build: Any, attributes: str) -> None:
    constants, reason = REFUSED[attributes]
    outcome = UnflattenGemm()(build(attributes, **constants))
    assert outcome.rewrites == 0
    assert outcome.refusals == (Refusal("unflatten-gemm", "n_g", reason),)


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (BODY + "\n z = Neg(g)", "float[b, s, 5] y, float[r, 5] z",
         "its rows are read as they are, or in several shapes"),
        ("rows = Reshape(x, flat)\n g = Gemm(rows, w, c)", "float[r, 5] g",
         "its rows are a graph output"),
        ("rows = Reshape(x, flat)\n g = Gemm(rows, w, c)\n n = Shape<start = 0, end = 2>(x)\n"
         "one = Gather(n, swapped)\n to = Concat<axis = 0>(one, five)\n y = Reshape(g, to)",
         "float[s, b, 5] y", "its rows come from [b, s, 4] and go to [s, b, 5]"),
    ],
)  # fmt: skip
def test_rows_that_go_elsewhere_are_refused(
    build: Any, body: str, outputs: str, reason: str
) -> None:
    outcome = UnflattenGemm()(build(body=body, outputs=outputs, swapped=np.array([1, 0])))
    assert [refusal.reason for refusal in outcome.refusals] == [reason]


def test_a_gemm_over_a_matrix_is_none_of_its_business(parse: Any) -> None:
    model = parse("pooler (float[b, 4] x) => (float[b, 5] y) { y = Gemm(x, w) }",
                  w=np.ones((4, 5), np.float32))  # fmt: skip
    outcome = UnflattenGemm()(model)
    assert (outcome.modified, outcome.refusals) == (False, ())
