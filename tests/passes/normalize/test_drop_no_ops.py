"""What does nothing goes, what looks like it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fuselage.passes.normalize.drop_no_ops import DropNoOps
from fuselage.passes.normalize.infer_shapes import InferShapes

CONSTANTS = {
    "v0": np.array([0]), "v1": np.array([1]), "v2": np.array([2]), "v3": np.array([3]),
    "v12": np.array([1, 2]), "vminus": np.array([-1]), "most": np.array([2**63 - 1]),
    "same": np.array([0, 0, 8]), "split": np.array([0, 0, 2, 4]), "flat": np.array([-1, 8]),
    "ones": np.array([1, 1, 1]), "twos": np.array([1, 1, 2]), "off": np.array(False),
    "on": np.array(True), "ratio": np.float32(0.5), "one": np.float32(1), "zero": np.float32(0),
    "wide": np.ones((1, 1, 1, 1), np.float32), "last": np.array([8]), "step": np.array([-1]),
    "lowest": np.array([-(2**63)]), "grown": np.array([2, 1, 1, 1]),
}  # fmt: skip
X = {"in": np.arange(120, dtype=np.float32).reshape(3, 5, 8)}

DROPPED = {
    "Reshape": "h = Reshape(x, same)",
    "a view and back": "g = Reshape(x, split)\n i = Reshape(g, split)\n"
    "h = Reshape(i, same)",
    "Squeeze of Unsqueeze": "u = Unsqueeze(x, v1)\n h = Squeeze(u, v1)",
    "Expand": "n = Shape(x)\n h = Expand(x, n)",
    "Expand by ones": "h = Expand(x, ones)",
    "Tile": "h = Tile(x, ones)",
    "Slice": "h = Slice(x, v0, most, v1, v1)",
    "Slice to the size": "h = Slice(x, v0, last, v2)",
    "Cast": "h = Cast<to = 1>(x)",
    "Transpose": "h = Transpose<perm = [0, 1, 2]>(x)",
    "Concat": "h = Concat<axis = 1>(x)",
    "Dropout": "h = Dropout(x)",
    "Dropout told not to train": "h = Dropout(x, ratio, off)",
    "Mul": "h = Mul(x, one)",
    "Mul from the left": "h = Mul(one, x)",
    "Div": "h = Div(x, one)",
    "Add": "h = Add(zero, x)",
    "Sub": "h = Sub(x, zero)",
    "a default Transpose, twice": "t = Transpose(x)\n h = Transpose(t)",
    "Transpose there and back": "t = Transpose<perm = [2, 0, 1]>(x)\n"
    "h = Transpose<perm = [1, 2, 0]>(t)",
}  # fmt: skip

KEPT = {
    "another shape": "h = Reshape(x, flat)",
    "a real Expand": "u = Unsqueeze(x, v0)\n h = Expand(u, grown)",
    "Tile": "h = Tile(x, twos)",
    "a backward slice": "h = Slice(x, vminus, lowest, v1, step)",
    "Cast": "h = Cast<to = 11>(x)",
    "Transpose": "h = Transpose<perm = [0, 2, 1]>(x)",
    "a default Transpose": "h = Transpose(x)",
    "Mul by the shape of another rank": "h = Mul(x, wide)",
    "Mul by 0": "h = Mul(x, zero)",
    "Div of 1": "h = Div(one, x)",
    "Sub from 0": "h = Sub(zero, x)",
    "Dropout in training": "h = Dropout<seed = 1>(x, ratio, on)",
    "a mask that is read": "g, m = Dropout(x)\n c = Cast<to = 1>(m)\n h = Mul(g, c)",
}


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, dims: str = "b, s, 8") -> Any:
        text = f"noop (float[{dims}] in) => (float y) {{ x = Abs(in)\n {body}\n y = Neg(h) }}"
        model = parse(text, **CONSTANTS)
        for value in tuple(model.graph.initializers.values()):
            if not value.uses():
                del model.graph.initializers[value.name]
        model.graph.outputs[0].shape = None
        InferShapes()(model)
        return model

    return make


@pytest.mark.parametrize("name", DROPPED)
def test_what_gives_back_what_it_reads_is_dropped(
    build: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = build(DROPPED[name])
    after, outcome = apply(DropNoOps(), model)
    assert outcome.rewrites >= 1
    assert [node.op_type for node in after.graph if node.op_type != "Shape"][-2:] == ["Abs", "Neg"]
    same_numbers(model, after, X, atol=0, rtol=0)
    assert not apply(DropNoOps(), after)[1].modified


@pytest.mark.parametrize("name", KEPT)
def test_what_does_something_is_kept(build: Any, apply: Any, name: str) -> None:
    model = build(KEPT[name])
    after, outcome = apply(DropNoOps(), model)
    assert not outcome.modified
    assert len(after.graph) == len(model.graph)


def test_unsqueezes_in_a_row_become_one(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build("u = Unsqueeze(x, v1)\n v = Unsqueeze(u, v3)\n h = Unsqueeze(v, vminus)")
    after, outcome = apply(DropNoOps(), model)
    assert outcome.rewrites == 2
    assert [node.op_type for node in after.graph] == ["Abs", "Unsqueeze", "Neg"]
    assert after.graph[1].inputs[1].const_value.numpy().tolist() == [1, 3, 5]
    same_numbers(model, after, X, atol=0, rtol=0)
    assert not apply(DropNoOps(), after)[1].modified


def test_transposes_in_a_row_become_one(build: Any, apply: Any, same_numbers: Any) -> None:
    model = build("t = Transpose<perm = [2, 0, 1]>(x)\n h = Transpose<perm = [2, 0, 1]>(t)")
    after, _ = apply(DropNoOps(), model)
    assert [node.op_type for node in after.graph] == ["Abs", "Transpose", "Neg"]
    assert after.graph[1].attributes["perm"].as_ints() == (1, 2, 0)
    same_numbers(model, after, X, atol=0, rtol=0)


KEYS = "b, 2, s, 4"
K = {"in": np.random.default_rng(1).normal(size=(3, 2, 5, 4)).astype(np.float32)}
THROUGH_3D = """n = Shape(x)
    l = Slice(n, vminus, most)
    k = Slice(n, v2, v3)
    first = Slice(n, v0, v2)
    m = Concat<axis = 0>(vminus, k, l)
    r = Reshape(x, m)
    t = Transpose<perm = [0, 2, 1]>(r)
    w = Concat<axis = 0>(first, {})
    h = Reshape(t, w)"""


def test_keys_transposed_through_three_dimensions(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(THROUGH_3D.format("l, k"), KEYS)
    after, outcome = apply(DropNoOps(), model)
    assert outcome.rewrites == 1
    (transpose,) = [node for node in after.graph if node.op_type == "Transpose"]
    assert transpose.attributes["perm"].as_ints() == (0, 1, 3, 2)
    assert "Reshape" not in [node.op_type for node in after.graph]
    same_numbers(model, after, K, atol=0, rtol=0)


def test_rows_read_in_another_shape_are_kept(build: Any, apply: Any, same_numbers: Any) -> None:
    """[b, h, s, d] of the transposed rows is not a transposition of the keys."""
    model = build(THROUGH_3D.format("k, l"), KEYS)
    after, outcome = apply(DropNoOps(), model)
    assert not outcome.modified
    same_numbers(model, after, K, atol=0, rtol=0)


def test_a_graph_output_stays(parse: Any, apply: Any) -> None:
    model = parse("out (float[b, 4] x) => (float[b, 4] y) { y = Mul(x, one) }", one=np.float32(1))
    assert not apply(DropNoOps(), model)[1].modified
