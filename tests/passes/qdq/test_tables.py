from __future__ import annotations

import numpy as np
import pytest

from fuselage.errors import PassError
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.params import FP8, QuantParams
from fuselage.passes.qdq.policy import QuantPlan, QuantPolicy

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
ROWS, WIDTH = 1 << 15, 32
POLICY = QuantPolicy(embeddings=True)
LOOKUP = HEAD + "g (int64[b, s] ids) => (float[b, s, 32] y) { y = Gather(t, ids) }"


@pytest.fixture(scope="module")
def table():
    """Rows of very different size, one of them zero."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(ROWS, WIDTH)) * np.exp(rng.normal(size=(ROWS, 1)))
    values[3] = 0.0
    return values.astype(np.float32)


def insert(model, policy=POLICY, **ranges):
    activations = {name: QuantParams.symmetric(amax) for name, amax in ranges.items()}
    return InsertQdq(activations, policy=policy)(model)


def test_rows_are_restored_within_half_a_step_of_their_own_scale(parse, run, table):
    model = parse(LOOKUP, {"t": table})
    done = insert(model)
    assert (done.rewrites, done.refusals) == (1, ())
    assert [node.op_type for node in model.graph] == [
        "DequantizeLinear", "Gather", "Gather", "Mul",
    ]  # fmt: skip
    assert model.graph.outputs[0].name == "y"
    assert {name: value.dtype.name for name, value in model.graph.initializers.items()} == {
        "t/int8": "INT8", "t/scale": "FLOAT", "t/zero_point": "INT8", "t/row_scales": "FLOAT",
    }  # fmt: skip
    ids = np.array([[0, 3, 9], [ROWS - 1, 7, 7]])
    (got,) = run(model, {"ids": ids})
    step = np.abs(table[ids]).max(axis=-1, keepdims=True) / 127
    assert (np.abs(got - table[ids]) <= step * 0.5001).all()
    assert not got[0, 1].any()
    assert lint_qdq(model) == ()
    assert insert(model).modified is False


def test_nothing_is_looked_at_unless_asked_for(parse, table):
    model = parse(LOOKUP, {"t": table})
    done = insert(model, QuantPolicy())
    assert (done.modified, done.refusals) == (False, ())


def test_lookups_of_one_table_share_its_codes(parse, run, table):
    text = HEAD + (
        "g (int64[b, s] ids, int64[b, s] more) => (float[b, s, 32] y)"
        " { a = Gather(t, ids) b = Gather(t, more) y = Add(a, b) }"
    )
    model = parse(text, {"t": table})
    assert insert(model).rewrites == 2
    assert sorted(model.graph.initializers) == [
        "t/int8", "t/row_scales", "t/scale", "t/zero_point",
    ]  # fmt: skip
    ids, more = np.array([[5, 6]]), np.array([[8, 5]])
    (got,) = run(model, {"ids": ids, "more": more})
    np.testing.assert_allclose(got, table[ids] + table[more], rtol=0, atol=0.15)


TIED = HEAD + (
    "g (int64[b, s] ids) => (float[b, s, rows] y)"
    " { e = Gather(t, ids) w = Transpose <perm = [1, 0]> (t) y = MatMul(e, w) }"
)


def test_a_tied_table_is_held_once_for_each_use_and_never_in_float(parse, run, table):
    model = parse(TIED, {"t": table})
    ids = np.array([[1, 2]])
    insert(model, e=float(np.abs(table[ids]).max()))
    codes = {
        name: value.shape.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value.size >= table.size
    }
    assert codes == {"t/int8": (WIDTH, ROWS), "t/int8_1": (ROWS, WIDTH)}
    assert {model.graph.initializers[name].dtype.name for name in codes} == {"INT8"}
    (got,) = run(model, {"ids": ids})
    expected = table[ids] @ table.T
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


def reason(plan: QuantPlan) -> str:
    assert plan.tables == ()
    (refusal,) = plan.float_tables
    return refusal.reason


def test_a_table_that_a_float_product_reads_too_stays_float(parse, table):
    plan = QuantPolicy(embeddings=True, keep_float=("y",)).plan(parse(TIED, {"t": table}))
    assert reason(plan) == (
        "MatMul node_y reads the table in float as well, so codes would come on top of it"
    )


def test_small_tables_stay_float(parse, table):
    plan = POLICY.plan(parse(LOOKUP, {"t": table[:512]}))
    assert reason(plan) == "16,384 elements: fewer than 1,048,576, not worth the error"


def test_a_table_that_a_feed_may_replace_stays_float(parse, table):
    model = parse(LOOKUP, {"t": table})
    model.graph.inputs.append(model.graph.initializers["t"])
    assert "input or output of the graph" in reason(POLICY.plan(model))


def test_angles_are_no_embeddings(parse, table):
    text = HEAD + (
        "g (int64[b, s] ids, float[b, s, 64] x) => (float[b, s, 64] y)"
        " { c = Gather(t, ids) y = RotaryEmbedding <num_heads = 1> (x, c, c) }"
    )
    assert "angles" in reason(POLICY.plan(parse(text, {"t": table})))


@pytest.mark.parametrize(
    "lookup", ["Gather <axis = 1> (t, ids)", "GatherElements(t, ids)", "Gather(x, ids)"]
)
def test_other_lookups_are_no_tables(parse, table, lookup):
    text = HEAD + f"g (int64[b, s] ids, float[n, 32] x) => (float y) {{ y = {lookup} }}"
    plan = POLICY.plan(parse(text, {"t": table}))
    assert (plan.tables, plan.float_tables) == ((), ())


def test_plans_with_tables_survive_json(parse, table):
    for model in (parse(LOOKUP, {"t": table}), parse(LOOKUP, {"t": table[:9]})):
        plan = POLICY.plan(model)
        assert QuantPlan.from_json(plan.to_json()) == plan


def test_tables_are_int8_alone():
    with pytest.raises(PassError, match="quantised to int8 alone, not to fp8"):
        QuantPolicy(embeddings=True, scheme=FP8)
