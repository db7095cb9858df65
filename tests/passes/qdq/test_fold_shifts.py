from __future__ import annotations

import numpy as np
import pytest

from fuselage.passes.qdq.fold_shifts import FoldActivationShifts
from fuselage.passes.qdq.lower_uint8 import LowerActivationsUint8

SHIFTED = """
<ir_version: 10, opset_import: ["" : 23]>
g (float[b, s, 4] x) => (float[b, s, 4] y) {
    moved = Add(x, shift)
    q = QuantizeLinear(moved, s, z)
    y = DequantizeLinear(q, s, z)
}
"""


def shifted(parse, shift, step=0.1):
    constants = {
        "shift": np.array(shift, np.float32),
        "s": np.array(step, np.float32),
        "z": np.array(0, np.int8),
    }
    return parse(SHIFTED, constants)


@pytest.mark.parametrize("channels", [1, 4])
def test_whole_steps_in_front_become_part_of_the_zero_point(parse, run, channels):
    model = shifted(parse, [np.float32(-90) * np.float32(0.1)] * channels)
    x = np.random.default_rng(0).uniform(-12, 30, (2, 5, 4)).astype(np.float32)
    (before,) = run(model, {"x": x})
    LowerActivationsUint8()(model)
    FoldActivationShifts()(model)
    assert [node.op_type for node in model.graph] == ["QuantizeLinear", "DequantizeLinear"]
    points = [node.inputs[2].const_value.numpy().item() for node in model.graph]
    assert points == [128 - 90, 128]
    assert "shift" not in model.graph.initializers
    assert FoldActivationShifts()(model).modified is False
    np.testing.assert_allclose(run(model, {"x": x})[0], before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [[0.25], [-12.9], [0.1, 0.2, 0.1, 0.1]])
def test_other_shifts_stay_as_they_are(parse, run, shift):
    model = shifted(parse, shift)
    x = np.random.default_rng(0).normal(0, 3, (2, 5, 4)).astype(np.float32)
    (before,) = run(model, {"x": x})
    LowerActivationsUint8()(model)
    FoldActivationShifts()(model)
    assert model.graph[0].op_type == "Add"
    np.testing.assert_array_equal(run(model, {"x": x})[0], before)


def test_signed_codes_keep_their_add(parse):
    model = shifted(parse, [np.float32(-90) * np.float32(0.1)])
    assert FoldActivationShifts()(model).modified is False


def test_sum_that_others_read_stays(parse):
    model = shifted(parse, [np.float32(-90) * np.float32(0.1)])
    model.graph.outputs.append(model.graph[0].outputs[0])
    LowerActivationsUint8()(model)
    assert FoldActivationShifts()(model).modified is False
