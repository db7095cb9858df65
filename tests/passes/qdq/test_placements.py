"""Wrong placements of Q/DQ nodes: each is refused by its rule, with the reason it has."""

from __future__ import annotations

import numpy as np
import pytest

from fuselage.passes.qdq.lint import lint_qdq

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\ng (float[b, s, 32] x) => (float[b, s, 32] y) {'
INPUT = " q = QuantizeLinear(x, sx, zx) d = DequantizeLinear(q, sx, zx)"
WEIGHT = " wd = DequantizeLinear <axis = 1> (w, sw, zw)"
ALONG_K = " wd = DequantizeLinear <axis = 0> (w, sw, zw)"
SILENT = "silently runs in float"

PLACEMENTS = {
    "output Q/DQ": (
        INPUT + WEIGHT + " m = MatMul(d, wd) p = QuantizeLinear(m, sx, zx)"
        " o = DequantizeLinear(p, sx, zx) y = Add(o, x) }",
        "gemm-inputs-only", "reads the quantised tensor: it costs accuracy and saves no kernel",
    ),
    "quantised graph output": (
        INPUT + WEIGHT + " m = MatMul(d, wd) p = QuantizeLinear(m, sx, zx)"
        " y = DequantizeLinear(p, sx, zx) }",
        "float-outputs", "the graph output 'y' is quantised",
    ),
    "residual that shares the codes of a linear": (
        INPUT + WEIGHT + " m = MatMul(d, wd) y = Add(m, d) }",
        "gemm-inputs-only", "reads the quantised tensor: it costs accuracy and saves no kernel",
    ),
    "residual behind a reshape": (
        INPUT + WEIGHT + " m = MatMul(d, wd) t = Transpose <perm = [0, 1, 2]> (d)"
        " y = Add(m, t) }",
        "gemm-inputs-only", "reads the quantised tensor",
    ),
    "weight scales along K": (
        INPUT + ALONG_K + " y = MatMul(d, wd) }",
        "output-channel-scales", f"scales run along K (axis 0): {SILENT}",
    ),
    "weight scales along K of a transposed Gemm": (
        " f = Reshape(x, flat) q = QuantizeLinear(f, sx, zx) d = DequantizeLinear(q, sx, zx)"
        + WEIGHT + " m = Gemm <transB = 1> (d, wd) y = Reshape(m, cube) }",
        "output-channel-scales", f"scales run along K (axis 1): {SILENT}",
    ),
    "quantised weight alone": (
        WEIGHT + " y = MatMul(x, wd) }",
        "both-operands", f"only the right operand is quantised: {SILENT}",
    ),
    "quantised activation alone": (
        INPUT + " wf = Cast <to = 1> (w) y = MatMul(d, wf) }",
        "both-operands", f"only the left operand is quantised: {SILENT}",
    ),
    "uint8": (
        " q = QuantizeLinear(x, sx, zu) d = DequantizeLinear(q, sx, zu)" + WEIGHT
        + " y = MatMul(d, wd) }",
        "symmetric-int8", "TensorRT reads uint8 as int8: wrong numbers without an error",
    ),
    "uint8 for want of a zero point": (
        " q = QuantizeLinear(x, sx) d = DequantizeLinear(q, sx)" + WEIGHT
        + " y = MatMul(d, wd) }",
        "zero-point-written", "an absent zero point means uint8 in ONNX",
    ),
}  # fmt: skip


def model_of(parse, body):
    arrays = {
        "sx": np.array(0.1, np.float32),
        "zx": np.array(0, np.int8),
        "zu": np.array(0, np.uint8),
        "w": np.ones((32, 32), np.int8),
        "sw": np.full(32, 0.1, np.float32),
        "zw": np.zeros(32, np.int8),
        "flat": np.array([-1, 32]),
        "cube": np.array([1, -1, 32]),
    }
    words = set(body.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return parse(HEAD + body, {name: array for name, array in arrays.items() if name in words})


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_wrong_placement_is_refused_with_its_reason(parse, placement):
    body, rule, reason = PLACEMENTS[placement]
    found = lint_qdq(model_of(parse, body))
    assert {entry.rule for entry in found} == {rule}
    assert [entry.reason for entry in found if reason in entry.reason]


@pytest.mark.parametrize(
    "body",
    [
        INPUT + WEIGHT + " y = MatMul(d, wd) }",
        INPUT + WEIGHT + " m = MatMul(d, wd) y = Add(m, x) }",
        INPUT + WEIGHT + " m = MatMul(d, wd) p = QuantizeLinear(m, sx, zx)"
        " o = DequantizeLinear(p, sx, zx) y = MatMul(o, wd) }",
    ],
)
def test_inputs_of_linears_are_the_right_place(parse, body):
    assert lint_qdq(model_of(parse, body)) == ()
