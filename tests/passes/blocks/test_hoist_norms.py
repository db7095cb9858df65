"""Norms of heads move before the transposition of the heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.blocks.hoist_norms import HoistNorms
from fuselage.passes.normalize.infer_shapes import InferShapes

TEXT = """heads (float[b, s, 2, 6] x) => (float[b, 2, s, 6] y{more}) {{
    t = Transpose<perm = {perm}>(x)
    y = {norm}
}}"""
RMS = "RMSNormalization<axis = {axis}, epsilon = 0.01>(t, gain)"
LAYER = "LayerNormalization<axis = {axis}, epsilon = 0.01>(t, gain, bias)"


@pytest.fixture
def build(parse: Any, rng: np.random.Generator) -> Any:
    def make(norm: str = RMS, *, axis: int = -1, perm: str = "[0, 2, 1, 3]", more: str = "") -> Any:
        text = TEXT.format(norm=norm.format(axis=axis), perm=perm, more=more)
        gain, bias = rng.normal(1, 0.5, (2, 6)).astype(np.float32)
        model = parse(text, gain=gain, bias=bias)
        InferShapes()(model)
        return model

    return make


def feeds(rng: np.random.Generator) -> dict[str, Any]:
    return {"x": rng.normal(0.5, 2, (3, 5, 2, 6)).astype(np.float32)}


@pytest.mark.parametrize("norm", [RMS, LAYER])
@pytest.mark.parametrize("axis", [-1, 3])
def test_norms_of_the_last_axis_move(
    build: Any, apply: Any, same_numbers: Any, rng: Any, norm: str, axis: int
) -> None:
    model = build(norm, axis=axis)
    after, outcome = apply(HoistNorms(), model)
    assert outcome.rewrites == 1
    first, second = after.graph
    assert (first.op_type, second.op_type) == (norm.partition("<")[0], "Transpose")
    assert [str(value.shape) for value in (first.outputs[0], second.outputs[0])] == [
        "[b,s,2,6]",
        "[b,2,s,6]",
    ]
    assert len(first.inputs) == (2 if norm is RMS else 3)
    same_numbers(model, after, feeds(rng), atol=2e-6, rtol=1e-5)
    _, second_run = apply(HoistNorms(), after)
    assert not second_run.modified


@pytest.mark.parametrize(
    "options",
    [
        {"axis": 2},  # over two axes, one of which moves
        {"perm": "[0, 1, 3, 2]"},  # the normalised axis moves
        {"more": ", float[b, 2, s, 6] t"},  # the transposition is needed anyway
    ],
)
def test_other_norms_stay(build: Any, apply: Any, options: dict[str, Any]) -> None:
    _, outcome = apply(HoistNorms(), build(**options))
    assert not outcome.modified
