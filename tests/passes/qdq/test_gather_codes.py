from __future__ import annotations

import numpy as np
import pytest

from fuselage.passes.qdq.gather_codes import GatherCodes

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\n'
IDS = np.array([[1, 0, 5], [2, 2, 7]])


@pytest.fixture
def arrays():
    codes = np.random.default_rng(0).integers(-127, 128, (8, 4), np.int8)
    return {"t": codes, "s": np.float32(0.1), "z": np.int8(0)}


def graph(body):
    return HEAD + f"g (int64[b, s] ids) => (float[b, s, 4] y) {{ {body} }}"


TABLE = "d = DequantizeLinear(t, s, z) "


def ops(model):
    return [node.op_type for node in model.graph]


def test_codes_are_gathered_first_to_the_same_numbers(parse, run, arrays):
    model = parse(graph(TABLE + "r = Gather <axis = 0> (d, ids) y = Neg(r)"), arrays)
    before = run(model, {"ids": IDS})
    assert GatherCodes()(model).rewrites == 1
    assert ops(model) == ["Gather", "DequantizeLinear", "Neg"]
    assert model.graph[0].outputs[0].dtype.name == "INT8"
    np.testing.assert_array_equal(run(model, {"ids": IDS}), before)
    assert GatherCodes()(model).modified is False


def test_an_output_keeps_its_name(parse, run, arrays):
    model = parse(graph(TABLE + "y = Gather(d, ids)"), arrays)
    assert GatherCodes()(model).modified
    assert model.graph.outputs[0].name == "y"
    expected = arrays["t"][IDS] * np.float32(0.1)
    np.testing.assert_array_equal(run(model, {"ids": IDS})[0], expected)


def test_two_lookups_each_restore_their_rows(parse, arrays):
    model = parse(graph(TABLE + "a = Gather(d, ids) b = Gather(d, ids) y = Add(a, b)"), arrays)
    assert GatherCodes()(model).rewrites == 2
    assert ops(model).count("DequantizeLinear") == 2


def test_a_scale_a_row_is_left_alone(parse, arrays):
    arrays |= {"s": np.ones(8, np.float32), "z": np.zeros(8, np.int8)}
    body = "d = DequantizeLinear <axis = 0> (t, s, z) y = Gather(d, ids)"
    assert GatherCodes()(parse(graph(body), arrays)).modified is False


def test_a_float_table_is_left_alone(parse):
    model = parse(graph("y = Gather(t, ids)"), {"t": np.ones((8, 4), np.float32)})
    assert GatherCodes()(model).modified is False
