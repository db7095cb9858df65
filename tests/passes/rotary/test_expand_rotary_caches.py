"""Rotary caches get the batch of x, once for everyone who reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.normalize.infer_shapes import InferShapes
from fuselage.passes.rotary.expand_rotary_caches import ExpandRotaryCaches

FOUR = """
    y = RotaryEmbedding(x, c, s)
    z = RotaryEmbedding(y, c, s)
"""


@pytest.fixture
def build(parse: Any) -> Any:
    def make(body: str, *, x: str = "b, 2, s, 8", batch: str = "1", opset: int = 23) -> ir.Model:
        text = f"""turn (float[{x}] x, float[{batch}, s, 4] angles) => (float[{x}] z)
            {{ c = Cos(angles) s = Sin(angles) {body} }}"""
        model: ir.Model = parse(text, opset=opset)
        InferShapes()(model)
        return model

    return make


def feeds(*x: int, batch: int = 1) -> dict[str, Any]:
    random = np.random.default_rng(sum(x))
    sequence = x[2] if len(x) == 4 else x[1]
    return {
        "x": random.normal(0, 1, x).astype(np.float32),
        "angles": random.normal(0, 9, (batch, sequence, 4)).astype(np.float32),
    }


def reference(x: Any, angles: Any) -> Any:
    low, high = x[..., :4], x[..., 4:]
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def test_both_caches_are_expanded_once(build: Any, apply: Any, run: Any) -> None:
    model = build(FOUR)
    case = feeds(3, 2, 5, 8)
    with pytest.raises(Exception, match="cos_cache"):
        run(model, case)
    after, outcome = apply(ExpandRotaryCaches(), model)
    assert (outcome.rewrites, outcome.refusals) == (2, ())
    operators = [node.op_type for node in after.graph]
    assert operators.count("Expand") == 2
    assert [str(value.shape) for value in after.graph[-1].inputs[1:]] == ["[b,s,4]"] * 2
    wanted = reference(reference(case["x"], case["angles"]), case["angles"])
    np.testing.assert_allclose(run(after, case)["z"], wanted, atol=1e-5)
    _, second = apply(ExpandRotaryCaches(), after)
    assert not second.modified


def test_three_dimensions(build: Any, apply: Any, run: Any) -> None:
    model = build("z = RotaryEmbedding<num_heads = 2>(x, c, s)", x="b, s, 16")
    after, outcome = apply(ExpandRotaryCaches(), model)
    assert outcome.rewrites == 1
    case = feeds(3, 5, 16)
    heads = case["x"].reshape(3, 5, 2, 8).transpose(0, 2, 1, 3)
    wanted = reference(heads, case["angles"]).transpose(0, 2, 1, 3).reshape(3, 5, 16)
    np.testing.assert_allclose(run(after, case)["z"], wanted, atol=1e-5)


@pytest.mark.parametrize(("x", "batch"), [("b, 2, s, 8", "b"), ("1, 2, s, 8", "1")])
def test_caches_with_the_batch_of_x_stay(build: Any, apply: Any, x: str, batch: str) -> None:
    _, outcome = apply(ExpandRotaryCaches(), build(FOUR, x=x, batch=batch))
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_a_batch_of_another_name_is_expanded_to_itself(
    build: Any, apply: Any, same_numbers: Any
) -> None:
    model = build(FOUR, batch="positions_batch")
    after, outcome = apply(ExpandRotaryCaches(), model)
    assert outcome.rewrites == 2
    same_numbers(model, after, feeds(3, 2, 5, 8, batch=3), atol=1e-6, rtol=1e-6)


def test_an_expanded_cache_stays_whatever_is_known_of_it(build: Any, apply: Any) -> None:
    after, _ = apply(ExpandRotaryCaches(), build(FOUR))
    for node in after.graph:
        if node.op_type == "Expand":
            node.outputs[0].shape = ir.Shape([None, "s", 4])
    _, outcome = apply(ExpandRotaryCaches(), after)
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_nothing_is_shared_between_batches_without_a_name(parse: Any, apply: Any, run: Any) -> None:
    model = parse("""turn (float[n, 2, s, 8] x, float[m, 2, s, 8] y, float[1, s, 4] angles)
        => (float[n, 2, s, 8] u, float[m, 2, s, 8] v) {
            c = Cos(angles) s = Sin(angles)
            u = RotaryEmbedding(x, c, s) v = RotaryEmbedding(y, c, s) }""")
    InferShapes()(model)
    for value in model.graph.inputs[:2]:
        value.shape = ir.Shape([None, 2, "s", 8])
    after, outcome = apply(ExpandRotaryCaches(), model)
    assert outcome.rewrites == 2
    assert [node.op_type for node in after.graph].count("Expand") == 4
    case = feeds(3, 2, 5, 8)
    got = run(after, {**case, "y": case["x"][:2]})
    np.testing.assert_allclose(got["v"], got["u"][:2], atol=1e-6)


def test_caches_looked_up_by_position_stay(parse: Any, apply: Any) -> None:
    model = parse("""turn (float[b, 2, s, 8] x, int64[b, s] p, float[50, 4] c)
        => (float[b, 2, s, 8] y) { y = RotaryEmbedding(x, c, c, p) }""")
    _, outcome = apply(ExpandRotaryCaches(), model)
    assert (outcome.modified, outcome.refusals) == (False, ())


def test_unknown_shapes_are_refused(build: Any, apply: Any) -> None:
    model = build(FOUR)
    cache = model.graph[0].outputs[0]
    cache.shape = None
    _, outcome = apply(ExpandRotaryCaches(), model)
    assert [(r.node, r.reason) for r in outcome.refusals] == [
        ("n_y", "cache 'c' has shape None, expected 3 dimensions"),
        ("n_z", "cache 'c' has shape None, expected 3 dimensions"),
    ]
    assert not outcome.modified
