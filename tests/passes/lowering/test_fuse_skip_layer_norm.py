"""Residual sums and normalisations become one operator of ONNX Runtime where that is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.lowering.fuse_skip_layer_norm import FuseSkipLayerNorm
from fuselage.passes.normalize.infer_shapes import InferShapes

INPUTS = "float[b, s, 8] x, float[b, s, 8] r"
WEIGHTS = {
    "gamma": np.linspace(0.5, 1.5, 8).astype(np.float32),
    "beta": np.linspace(-1, 1, 8).astype(np.float32),
}
NORMS = {
    "LayerNormalization": (
        "LayerNormalization<epsilon = 0.01>(a, gamma, beta)", "SkipLayerNormalization",
    ),
    "RMSNormalization": (
        "RMSNormalization<epsilon = 0.01>(a, gamma)", "SkipSimplifiedLayerNormalization",
    ),
}  # fmt: skip


def feeds() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {name: random.normal(0, 1, (3, 5, 8)).astype(np.float32) for name in ("x", "r")}


def build(parse: Any, body: str, inputs: str = INPUTS, outputs: str = "float[b, s, 8] y") -> Any:
    model = parse(f"f ({inputs}) => ({outputs}) {{ {body} }}", **WEIGHTS)
    InferShapes()(model)
    return model


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "the sum is read again"])
def test_the_sum_and_the_norm_become_one(
    parse: Any, apply: Any, same_numbers: Any, kind: str, shared: bool
) -> None:
    norm, operator = NORMS[kind]
    tail = f"n = {norm}  y = Add(n, a)" if shared else f"y = {norm}"
    model = build(parse, f"a = Add(x, r)  {tail}")
    after, outcome = apply(FuseSkipLayerNorm(kind), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == [operator] + ["Add"] * shared
    assert after.graph[0].attributes["epsilon"].as_float() == pytest.approx(0.01)
    assert len(after.graph[0].outputs) == (4 if shared else 1)
    assert after.opset_imports["com.microsoft"] == 1
    same_numbers(model, after, feeds(), atol=2e-6, rtol=1e-5)
    other = next(name for name in NORMS if name != kind)
    assert not apply(FuseSkipLayerNorm(other), model)[1].modified


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("a = Add(x, beta)  y = LayerNormalization(a, gamma, beta)", INPUTS),
        ("a = Add(x, r)  y = LayerNormalization(a, gamma, beta)",
         INPUTS.replace("float[b, s, 8] r", "float[1, s, 8] r")),
        ("a = Mul(x, r)  y = LayerNormalization(a, gamma, beta)", INPUTS),
    ],
    ids=["a bias", "a broadcast", "a product"],
)  # fmt: skip
def test_other_inputs_are_left_alone(parse: Any, apply: Any, body: str, inputs: str) -> None:
    assert not apply(FuseSkipLayerNorm(), build(parse, body, inputs))[1].modified


def test_a_sum_that_is_an_output_stays(parse: Any, apply: Any) -> None:
    model = build(
        parse,
        "a = Add(x, r)  y = LayerNormalization(a, gamma, beta)",
        outputs="float[b, s, 8] y, float[b, s, 8] a",
    )
    assert not apply(FuseSkipLayerNorm(), model)[1].modified
