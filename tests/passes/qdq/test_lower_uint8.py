from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselage.errors import PassError
from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lower_uint8 import LowerActivationsUint8

PAIR = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[b, s, 4] x) => (float[b, s, 4] y) {
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}
"""


@pytest.fixture
def quantized(block, params):
    InsertQdq(params)(block)
    return block


def zero_points(model):
    return {
        node.op_type + str(node.inputs[0].is_initializer()): node.inputs[2].const_value
        for node in model.graph
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    }


def test_activations_become_uint8_and_weights_stay_int8(quantized):
    done = LowerActivationsUint8()(quantized)
    assert (done.rewrites, done.refusals) == (3, ())
    found = zero_points(quantized)
    assert found["QuantizeLinearFalse"].numpy() == 128
    assert found["QuantizeLinearFalse"].dtype == ir.DataType.UINT8
    assert found["DequantizeLinearFalse"].numpy() == 128
    assert found["DequantizeLinearTrue"].dtype == ir.DataType.INT8
    assert not found["DequantizeLinearTrue"].numpy().any()


def test_values_are_preserved_bit_for_bit_saturation_included(quantized, run):
    x = np.random.default_rng(0).normal(0, 3, (2, 5, 32)).astype(np.float32)
    x[0, 0, :4] = [1e4, -1e4, 0.0, -0.0]
    (before,) = run(quantized, {"x": x})
    LowerActivationsUint8()(quantized)
    (after,) = run(quantized, {"x": x})
    np.testing.assert_array_equal(after, before)


def pair(codes: str, zero: int) -> ort.InferenceSession:
    """Q and DQ of any tensor by any scale, without the optimiser."""
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
    g (float[n] x, float s, {codes} z) => (float[n] y, {codes}[n] q)
    {{ q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }}"""
    model = ir.from_onnx_text(text)
    z = next(value for value in model.graph.inputs if value.name == "z")
    model.graph.inputs.remove(z)
    z.const_value = ir.tensor(np.array(zero, codes), name="z")
    model.graph.register_initializer(z)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(data, options, ["CPUExecutionProvider"])


SIGNED, UNSIGNED = pair("int8", 0), pair("uint8", 128)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    log_scale=st.floats(-60, 60),
    size=st.integers(1, 80),
    odd=st.sampled_from([0.0, 0.5, -0.5, 0.25]),
    extreme=st.sampled_from([0.0, -0.0, 3e38, -3e38, np.inf, -np.inf, np.nan]),
)
def test_any_scale_gives_the_same_codes(seed, log_scale, size, odd, extreme):
    """Ties, their neighbours, saturation, vector lanes and their tails."""
    rng = np.random.default_rng(seed)
    scale = np.array(np.exp(log_scale), np.float32)
    steps = rng.integers(-140, 141, size) + odd
    x = (steps * np.float64(scale)).astype(np.float32)
    x = np.nextafter(x, rng.choice([-np.inf, 0, np.inf], size).astype(np.float32))
    x[rng.integers(size)] = extreme
    restored, codes = SIGNED.run(None, {"x": x, "s": scale})
    same, shifted = UNSIGNED.run(None, {"x": x, "s": scale})
    np.testing.assert_array_equal(shifted.astype(int) - 128, codes)
    np.testing.assert_array_equal(same, restored)


def test_unread_zero_points_are_removed(quantized):
    LowerActivationsUint8()(quantized)
    assert all(value.uses() for value in quantized.graph.initializers.values())


def test_second_run_changes_nothing(quantized):
    LowerActivationsUint8()(quantized)
    assert LowerActivationsUint8()(quantized).modified is False


def test_clone_leaves_the_source_runnable(quantized, run):
    LowerActivationsUint8()(quantized.clone())
    x = np.ones((1, 2, 32), np.float32)
    assert np.isfinite(run(quantized, {"x": x})[0]).all()
    (node, *_) = [node for node in quantized.graph if node.op_type == "QuantizeLinear"]
    assert node.outputs[0].dtype == ir.DataType.INT8


def test_foreign_zero_point_is_refused(parse):
    model = parse(PAIR, {"s": np.array(0.1, np.float32), "z": np.array(3, np.int8)})
    done = LowerActivationsUint8()(model)
    assert done.modified is False
    assert [refusal.reason for refusal in done.refusals] == [
        "the zero point is not a single constant 0"
    ]


def test_a_reader_with_another_zero_point_is_refused(parse):
    text = PAIR.replace("DequantizeLinear(q, s, z)", "DequantizeLinear(q, s, other)")
    zeros = {"z": np.array(0, np.int8), "other": np.array(3, np.int8)}
    done = LowerActivationsUint8()(parse(text, {"s": np.array(0.1, np.float32)} | zeros))
    assert done.modified is False
    assert done.refusals[0].reason == "a DequantizeLinear that reads it has another zero point"


def test_a_reader_without_a_zero_point_gets_one(parse, run):
    text = PAIR.replace("DequantizeLinear(q, s, z)", "DequantizeLinear(q, s)")
    model = parse(text, {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)})
    x = np.random.default_rng(0).normal(0, 5, (2, 3, 4)).astype(np.float32)
    (before,) = run(model, {"x": x})
    assert LowerActivationsUint8()(model).rewrites == 1
    np.testing.assert_array_equal(run(model, {"x": x})[0], before)


def test_codes_read_by_others_are_refused(parse):
    text = PAIR.replace("(float[b, s, 4] y)", "(float[b, s, 4] y, int8[b, s, 4] q)")
    model = parse(text, {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)})
    done = LowerActivationsUint8()(model)
    assert done.modified is False
    assert "read by something else" in done.refusals[0].reason


def test_seven_bit_weights_cannot_overflow_a_pair_and_stay_close(quantized, run):
    x = np.random.default_rng(0).normal(0, 2, (2, 5, 32)).astype(np.float32)
    (before,) = run(quantized, {"x": x})
    done = LowerActivationsUint8(weight_bits=7)(quantized)
    assert done.rewrites == 3 + 4
    for name, value in quantized.graph.initializers.items():
        if name.endswith("/int8"):
            assert 2 * 255 * np.abs(value.const_value.numpy().astype(int)).max() < 2**15
    (after,) = run(quantized, {"x": x})
    noise = np.square(before - after).sum() / np.square(before).sum()
    assert 0 < noise < 5e-3
    assert LowerActivationsUint8(weight_bits=7)(quantized).modified is False


def test_other_widths_are_refused(quantized):
    with pytest.raises(PassError, match="expected weight_bits 7 or 8, got 6"):
        LowerActivationsUint8(weight_bits=6).call(quantized)
