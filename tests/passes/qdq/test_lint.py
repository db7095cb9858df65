from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.passes.qdq.insert import InsertQdq
from fuselage.passes.qdq.lint import lint_qdq
from fuselage.passes.qdq.lower_uint8 import LowerActivationsUint8

HEAD = '<ir_version: 10, opset_import: ["" : 23]>\ng (float[b, s, 32] x) => (float[b, s, 32] y) {'
ACTIVATION = " q = QuantizeLinear(x, sx, zx) d = DequantizeLinear(q, sx, zx)"
WEIGHT = " wd = DequantizeLinear <axis = 1> (w, sw, zw)"
GEMM = " y = MatMul(d, wd) }"


def constants(**changes):
    arrays = {
        "sx": np.array(0.1, np.float32),
        "zx": np.array(0, np.int8),
        "w": np.ones((32, 32), np.int8),
        "sw": np.full(32, 0.1, np.float32),
        "zw": np.zeros(32, np.int8),
    }
    return arrays | changes


def rules(model):
    return {found.rule for found in lint_qdq(model)}


def test_our_own_insertion_is_clean(block, params):
    InsertQdq(params)(block)
    assert lint_qdq(block) == ()


def test_float_graph_is_clean(block):
    assert lint_qdq(block) == ()


def test_good_graph_is_clean(parse):
    assert lint_qdq(parse(HEAD + ACTIVATION + WEIGHT + GEMM, constants())) == ()


@pytest.mark.parametrize(
    ("changes", "rule", "reason"),
    [
        ({"zx": np.array(1, np.int8)}, "symmetric-int8", "other than 0"),
        ({"zx": np.array(0, np.uint8)}, "symmetric-int8", "wrong numbers"),
        ({"sx": np.array(0, np.float32)}, "positive-scale", "0.0"),
        ({"sx": np.array(np.inf, np.float32)}, "positive-scale", "inf"),
        ({"sw": np.full(32, 1e-9, np.float16)}, "positive-scale", "FLOAT16"),
        ({"sw": np.ones(32, np.float16)}, "one-float-type", "FLOAT and FLOAT16"),
        ({"sx": np.ones(32, np.float32), "zx": np.zeros(32, np.int8)},
         "per-tensor-activation", "silently runs in float"),
    ],
)  # fmt: skip
def test_bad_constants_are_found(parse, changes, rule, reason):
    found = lint_qdq(parse(HEAD + ACTIVATION + WEIGHT + GEMM, constants(**changes)))
    assert [entry for entry in found if entry.rule == rule and reason in entry.reason]


@pytest.mark.parametrize(
    ("body", "unused", "rule"),
    [
        (ACTIVATION + " wd = DequantizeLinear <axis = 0> (w, sw, zw)" + GEMM, "",
         "output-channel-scales"),
        (ACTIVATION + " wd = DequantizeLinear <axis = 1> (w, sw, zw)"
         " t = Transpose <perm = [1, 0]> (wd) y = MatMul(d, t) }", "", "output-channel-scales"),
        (WEIGHT + " y = MatMul(x, wd) }", "sx zx", "both-operands"),
        (ACTIVATION + " wf = Cast <to = 1> (w) y = MatMul(d, wf) }", "sw zw", "both-operands"),
        (ACTIVATION + WEIGHT + " m = MatMul(d, wd) y = Add(m, d) }", "", "gemm-inputs-only"),
        (ACTIVATION + WEIGHT + " m = MatMul(d, wd) p = QuantizeLinear(m, sx, zx)"
         " o = DequantizeLinear(p, sx, zx) y = Add(o, x) }", "", "gemm-inputs-only"),
        (" q = QuantizeLinear(x, sx) d = DequantizeLinear(q, sx)" + WEIGHT + GEMM, "zx",
         "zero-point-written"),
        (ACTIVATION.replace("d =", "y =") + " }", "w sw zw", "float-outputs"),
        (" a = Abs(x) r = ReduceMax <keepdims = 0> (a) q = QuantizeLinear(x, r, zx)"
         " d = DequantizeLinear(q, r, zx)" + WEIGHT + GEMM, "sx", "constant-scale"),
    ],
)  # fmt: skip
def test_bad_placements_are_found(parse, body, unused, rule):
    arrays = {name: array for name, array in constants().items() if name not in unused.split()}
    assert rule in rules(parse(HEAD + body, arrays))


def test_int32_bias_is_found(parse):
    body = " bd = DequantizeLinear(bias, sx, zb)" + ACTIVATION + WEIGHT
    arrays = constants(bias=np.zeros(32, np.int32), zb=np.array(0, np.int32))
    model = parse(HEAD + body + " m = MatMul(d, wd) y = Add(m, bd) }", arrays)
    reasons = [found.reason for found in lint_qdq(model) if found.rule == "symmetric-int8"]
    assert reasons == ["TensorRT has no INT32 here: keep biases in float"]


def test_blocks_are_found(parse):
    arrays = constants(sw=np.ones((2, 32), np.float32), zw=np.zeros((2, 32), np.int8))
    body = ACTIVATION + " wd = DequantizeLinear <axis = 0, block_size = 16> (w, sw, zw)" + GEMM
    assert "no-blocks" in rules(parse(HEAD + body, arrays))


def test_int8_embedding_table_is_allowed(parse):
    model = parse(
        '<ir_version: 10, opset_import: ["" : 23]>\n'
        "g (int64[b, s] x) => (float[b, s, 32] y)"
        " { t = DequantizeLinear(w, sx, zx) y = Gather(t, x) }",
        {name: array for name, array in constants().items() if name in ("w", "sx", "zx")},
    )
    assert lint_qdq(model) == ()


def test_uint8_lowering_is_not_for_tensorrt(block, params):
    InsertQdq(params)(block)
    LowerActivationsUint8()(block)
    assert rules(block) == {"symmetric-int8"}


def test_node_without_a_name_is_called_by_its_output(parse):
    model = parse(HEAD + WEIGHT + " y = MatMul(x, wd) }", constants())
    for node in model.graph:
        node.name = None
    assert [found.node for found in lint_qdq(model)] == ["y"]
    assert isinstance(model, ir.Model)
