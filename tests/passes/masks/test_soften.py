"""A mask of unknown meaning keeps its meaning and gets fills that behave as in eager attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.masks.fill import mask_fill
from fuselage.passes.masks.simplify_attention_mask import SimplifyAttentionMask
from fuselage.passes.masks.soften import soften
from fuselage.passes.normalize.infer_shapes import InferShapes

FILL = mask_fill(ir.DataType.FLOAT)
CONSTANTS = {
    "f0": np.float32(0),
    "f1": np.float32(1),
    "lowest": np.finfo(np.float32).min,
    "infinite": np.float32(-np.inf),
    "billion": np.float32(-1e9),
    "table": np.triu(np.full((64, 64), -np.inf, np.float32), 1)[None, None],
    "axes12": np.array([1, 2], np.int64),
    "axes13": np.array([1, 3], np.int64),
    "a0": np.array([0], np.int64),
    "a1": np.array([1], np.int64),
    "zeros": np.array([0, 0], np.int64),
    "a23": np.array([2, 3], np.int64),
}
HEAD = """net (int64[b, s] one, int64[b, s] two, float[b, s, 16] q, float[b, s, 16] k,
    float[b, s, 16] v) => (float[b, s, 16] y) {{
    n = Shape<start = 1, end = 2>(one)
    cut = Concat<axis = 0>(n, n)
    c1 = Cast<to = 9>(one)
    r1 = Unsqueeze(c1, axes12)
    c2 = Cast<to = 9>(two)
    r2 = Unsqueeze(c2, axes13)
    near = Equal(r1, r2)
    {body}
    y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, mask) }}"""
BODIES = {
    "the lowest": "mask = Where(near, f0, lowest)",
    "infinity": "hidden = Not(near)\n mask = Where(hidden, infinite, f0)",
    "boolean": "mask = Identity(near)",
    "a product": "far = Cast<to = 1>(near)\n gone = Sub(f1, far)\n mask = Mul(gone, lowest)",
    "two masks": "m1 = Where(near, f0, lowest)\n m2 = Where(r1, f0, lowest)\n mask = Add(m1, m2)",
    "a table": "part = Slice(table, zeros, cut, a23)\n seg = Where(near, f0, lowest)\n"
    "mask = Add(part, seg)",
}


def model_of(parse: Any, body: str) -> ir.Model:
    model: ir.Model = parse(HEAD.format(body=body), **CONSTANTS)
    InferShapes()(model)
    return model


def feeds(batch: int, sequence: int) -> dict[str, Any]:
    random = np.random.default_rng(batch)
    made: dict[str, Any] = {
        name: random.normal(0, 1, (batch, sequence, 16)).astype(np.float32) for name in "qkv"
    }
    made["one"] = random.integers(0, 2, (batch, sequence))
    made["two"] = random.integers(0, 2, (batch, sequence))
    made["one"][-1], made["two"][-1] = 0, 1  # no query of the last row has a key
    return made


@pytest.mark.parametrize("name", BODIES)
def test_rows_without_a_key_attend_evenly(parse: Any, apply: Any, run: Any, name: str) -> None:
    model = model_of(parse, BODIES[name])
    after, outcome = apply(SimplifyAttentionMask(), model)
    assert outcome.rewrites == 1
    assert [refusal.reason for refusal in outcome.refusals]
    one = feeds(3, 5)
    got = run(after, one)["y"]
    even = np.tile(one["v"][2].astype(np.float64).mean(axis=0), (5, 1))
    np.testing.assert_allclose(got[2], even, atol=2e-6, rtol=0)
    assert np.all(np.isfinite(got))
    _, second = apply(SimplifyAttentionMask(), after)
    assert not second.modified


@pytest.mark.parametrize("name", BODIES)
def test_rows_with_keys_keep_their_numbers(
    parse: Any, apply: Any, same_numbers: Any, name: str
) -> None:
    model = model_of(parse, BODIES[name])
    after, _ = apply(SimplifyAttentionMask(), model)
    one = feeds(2, 6)
    one["one"][:, 0] = one["two"][:, 0] = 1
    one["two"][:] = one["one"][:] = 1
    same_numbers(model, after, one, atol=2e-6, rtol=1e-5)


def test_a_fill_that_is_weak_enough_stays(parse: Any, apply: Any) -> None:
    model = model_of(parse, "mask = Where(near, f0, billion)")
    _, outcome = apply(SimplifyAttentionMask(), model)
    assert not outcome.modified
    assert len(outcome.refusals) == 1


def test_constants_are_changed_where_the_mask_reads_them(parse: Any) -> None:
    text = "mask = Where(near, f0, lowest)\n low = Add(lowest, lowest)"
    model = model_of(parse, text)
    mask = model.graph[-1].inputs[3]
    assert mask is not None
    assert soften(model.graph, mask, ir.DataType.FLOAT) is mask
    where, low = mask.producer(), next(node for node in model.graph if node.name == "n_low")
    assert where is not None
    assert where.inputs[2] is not None
    assert where.inputs[2].const_value is not None
    assert where.inputs[2].const_value.numpy() == np.float32(FILL)
    assert low.inputs[0] is not None
    assert low.inputs[0].name == "lowest"
    assert soften(model.graph, mask, ir.DataType.FLOAT) is None


def test_layers_share_a_softened_mask(parse: Any, apply: Any) -> None:
    body = "mask = Identity(near)\n z = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, mask)"
    after, outcome = apply(SimplifyAttentionMask(), model_of(parse, body))
    assert (outcome.rewrites, len(outcome.refusals)) == (2, 2)
    masks = {node.inputs[3] for node in after.graph if node.op_type == "Attention"}
    assert len(masks) == 1
