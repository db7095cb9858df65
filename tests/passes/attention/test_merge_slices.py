"""Slices that hold every column of a tensor once become one Split."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.attention.merge_slices import MergeSlices
from fuselage.passes.normalize.infer_shapes import InferShapes

CONSTANTS = {f"i{n}": np.array([n]) for n in range(13)} | {
    "end": np.array([2**63 - 1]),
    "last": np.array([-1]),
    "minus_four": np.array([-4]),
}
THREE = """
    c = Slice(x, {0}, end, last, i1)
    a = Slice(x, i0, i6, i2, i1)
    b = Slice(x, i6, {1}, last)
"""
OUTPUTS = "float[b, s, 6] a, float[b, s, 2] b, float[b, s, 4] c"


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, outputs: str = OUTPUTS) -> ir.Model:
        model: ir.Model = parse(
            f"parts (float[b, s, 12] x) => ({outputs}) {{ {body} }}", **CONSTANTS
        )
        InferShapes()(model)
        return model

    return make


def feeds() -> dict[str, Any]:
    return {"x": np.random.default_rng(0).normal(0, 1, (2, 3, 12)).astype(np.float32)}


@pytest.mark.parametrize(("start", "stop"), [("i8", "i8"), ("minus_four", "minus_four")])
def test_three_parts_in_any_order(
    build: Any, apply: Any, same_numbers: Any, start: str, stop: str
) -> None:
    model = build(THREE.format(start, stop))
    after, outcome = apply(MergeSlices(), model)
    assert (outcome.rewrites, outcome.refusals) == (1, ())
    (split,) = after.graph
    assert split.op_type == "Split"
    assert [value.name for value in split.outputs] == ["a", "b", "c"]
    same_numbers(model, after, feeds(), atol=0, rtol=0)
    _, second = apply(MergeSlices(), after)
    assert not second.modified


def test_other_readers_stay(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build(
        THREE.format("i8", "i8") + "d = Neg(x)\n e = Slice(x, i0, i1, i1)",
        OUTPUTS + ", float[b, s, 12] d, float[b, one, 12] e",
    )
    after, outcome = apply(MergeSlices(), model)
    assert outcome.rewrites == 1
    assert [node.op_type for node in after.graph] == ["Split", "Neg", "Slice"]
    same_numbers(model, after, feeds(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("start", "stop"),
    [("i9", "i8"), ("i7", "i8"), ("i8", "i7")],
    ids=["a gap", "an overlap", "another gap"],
)
def test_gaps_and_overlaps_stay_slices(build: Any, apply: Any, start: str, stop: str) -> None:
    _, outcome = apply(MergeSlices(), build(THREE.format(start, stop), "float a, float b, float c"))
    assert (outcome.modified, outcome.refusals) == (False, ())


@pytest.mark.parametrize(
    "body",
    [
        "a = Slice(x, i0, i12, last, i1)",  # the whole
        "a = Slice(x, i0, i6, last, i2)\n b = Slice(x, i6, i12, last, i2)",  # every other column
        "a = Slice(x, i0, i6, last, i1)",
        "a = Slice(x, i0, i1, i1, i1)\n b = Slice(x, i1, end, i1, i1)",  # another axis
    ],
)
def test_what_is_no_partition_stays(build: Any, apply: Any, body: str) -> None:
    outputs = "float a, float b" if "b =" in body else "float a"
    _, outcome = apply(MergeSlices(), build(body, outputs))
    assert not outcome.modified
