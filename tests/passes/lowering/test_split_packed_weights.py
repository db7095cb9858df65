"""Packed weights are cut instead of their product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.lowering.split_packed_weights import SplitPackedWeights
from fuselage.passes.normalize.infer_shapes import InferShapes

RANDOM = np.random.default_rng(5)
CONSTANTS = {
    "w": RANDOM.normal(0, 1, (6, 9)).astype(np.float32),
    "b": RANDOM.normal(0, 1, 9).astype(np.float32),
    "row": RANDOM.normal(0, 1, (1, 9)).astype(np.float32),
    "sizes": np.array([2, 3, 4]),
}
OUTPUTS = "float[n, s, 2] q, float[n, s, 3] k, float[n, s, 4] v"
THIRDS = "float[n, s, 3] q, float[n, s, 3] k, float[n, s, 3] v"


def build(parse: Any, body: str, outputs: str = OUTPUTS) -> Any:
    model = parse(f"f (float[n, s, 6] x) => ({outputs}) {{ {body} }}", **CONSTANTS)
    InferShapes()(model)
    return model


def feeds(*shape: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(0).normal(0, 1, (*shape, 6)).astype(np.float32)}


@pytest.mark.parametrize(
    ("body", "outputs", "operators"),
    [
        ("m = MatMul(x, w)  a = Add(m, b)  q, k, v = Split<axis = -1>(a, sizes)", OUTPUTS,
         ["MatMul", "Add"] * 3),
        ("m = MatMul(x, w)  q, k, v = Split<axis = 2>(m, sizes)", OUTPUTS, ["MatMul"] * 3),
        ("m = MatMul(x, w)  a = Add(m, b)  q, k, v = Split<axis = 2, num_outputs = 3>(a)", THIRDS,
         ["MatMul", "Add"] * 3),
    ],
    ids=["sizes and bias", "no bias", "thirds"],
)  # fmt: skip
def test_each_part_is_a_product(
    parse: Any, apply: Any, same_numbers: Any, body: str, outputs: str, operators: list[str]
) -> None:
    model = build(parse, body, outputs)
    after, outcome = apply(SplitPackedWeights(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == operators
    names = [node.name for node in after.graph if node.op_type == "MatMul"]
    packed = next(node.name or "m" for node in model.graph if node.op_type == "MatMul")
    assert names == [f"{packed}.part{index}" for index in range(3)]
    assert [value.name for value in after.graph.outputs] == ["q", "k", "v"]
    same_numbers(model, after, feeds(3, 7), feeds(1, 1), atol=2e-6, rtol=1e-5)
    assert not apply(SplitPackedWeights(), after)[1].modified


def test_a_part_nobody_reads_is_not_computed(parse: Any, apply: Any, same_numbers: Any) -> None:
    body = "m = MatMul(x, w)  q, k, v = Split<axis = -1>(m, sizes)"
    model = build(parse, body, "float[n, s, 3] k")
    after, _ = apply(SplitPackedWeights(), model)
    assert [node.op_type for node in after.graph] == ["MatMul"]
    same_numbers(model, after, feeds(2, 3), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("m = MatMul(x, w)  q, k, v = Split<axis = 1, num_outputs = 3>(m)",
         "float[n, t, 9] q, float[n, t, 9] k, float[n, u, 9] v"),
        ("m = MatMul(x, w)  q, k, v = Split<axis = -1>(m, sizes)", f"{OUTPUTS}, float[n, s, 9] m"),
        ("m = MatMul(x, w)  a = Add(m, row)  q, k, v = Split<axis = -1>(a, sizes)", OUTPUTS),
        ("m = MatMul(x, w)  g = Gelu(m)  q, k, v = Split<axis = -1>(g, sizes)", OUTPUTS),
        ("m = MatMul(x, w)  q, k, v = Split<axis = -1>(m, sizes)  t = ReduceSum(w)",
         f"{OUTPUTS}, float[1, 1] t"),
    ],
    ids=["another axis", "an output", "a broadcast bias", "an activation", "a shared weight"],
)  # fmt: skip
def test_what_is_no_packed_product_stays(parse: Any, apply: Any, body: str, outputs: str) -> None:
    assert not apply(SplitPackedWeights(), build(parse, body, outputs))[1].modified
