from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.calibration.ranges.common_scales import with_common_scales
from fuselage.calibration.ranges.smoothing import smooth
from fuselage.calibration.statistics.extrema import TensorStatistics
from fuselage.calibration.table import CalibrationTable, TensorRange
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.qdq.policy import QuantPolicy

TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
layers (float[b, s, 32] x) => (float[b, s, 32] y) {
    n = LayerNormalization(x, gain, offset)
    u0 = MatMul(n, w0)
    g0 = Gelu(u0)
    d0 = MatMul(g0, w1)
    u1 = MatMul(d0, w2)
    g1 = Gelu(u1)
    y = MatMul(g1, w3)
}
"""
SHAPES = {"w0": (32, 48), "w1": (48, 32), "w2": (32, 48), "w3": (48, 32)}


@pytest.fixture
def layers() -> Graph:
    rng = np.random.default_rng(3)
    arrays = {name: rng.normal(0, shape[0] ** -0.5, shape) for name, shape in SHAPES.items()}
    arrays |= {"gain": rng.uniform(0.5, 2, 32), "offset": rng.normal(0, 1, 32)}
    tensors = [ir.tensor(a.astype(np.float32), name=name) for name, a in arrays.items()]
    model = ir.from_onnx_text(TEXT, tensors)
    for value in model.graph.initializers.values():
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return Graph(model)


def found(reach: float, channels: int, shift: str) -> TensorRange:
    rng = np.random.default_rng(channels)
    high = (reach * rng.uniform(0.5, 1, channels)).astype(np.float32)
    change = smooth(-high / 3, high, np.ones((channels, 1), np.float32), 0.9, shift=shift)
    return TensorRange(
        change.amax, TensorStatistics(count=1, minimum=-reach / 3, maximum=reach), smoothing=change
    )


def shared(graph: Graph, second: float) -> dict[str, TensorRange]:
    ranges = {
        "n": found(3.0, 32, "channel"),
        "g0": found(1.5, 48, "uniform"),
        "d0": found(2.0, 32, "channel"),
        "g1": found(second, 48, "uniform"),
    }
    return with_common_scales(graph.model, QuantPolicy().plan(graph.model), ranges)


def test_tensors_behind_the_same_operator_get_one_step(layers: Graph) -> None:
    before = {"g0": found(1.5, 48, "uniform"), "g1": found(4.0, 48, "uniform")}
    ranges = shared(layers, 4.0)
    middle = (before["g0"].amax * before["g1"].amax) ** 0.5
    for name in ("g0", "g1"):
        one = ranges[name]
        assert one.amax == one.smoothing.amax == pytest.approx(middle)
        # The codes are those of before: reach and shift in steps are the same.
        old = before[name].smoothing
        np.testing.assert_array_equal(one.smoothing.steps, old.steps)
        np.testing.assert_allclose(one.smoothing.scale * one.amax, old.scale * old.amax, rtol=5e-4)
    assert ranges["n"] == found(3.0, 32, "channel")
    assert ranges["d0"].amax == pytest.approx(found(2.0, 32, "channel").amax)


def test_a_tensor_far_from_the_others_keeps_its_own(layers: Graph) -> None:
    ranges = shared(layers, 60.0)
    assert ranges["g0"] == found(1.5, 48, "uniform")
    assert ranges["g1"] == found(60.0, 48, "uniform")


def test_plain_ranges_stay(layers: Graph) -> None:
    plan = QuantPolicy().plan(layers.model)
    plain = {
        name: TensorRange(2.0, TensorStatistics(count=1, minimum=-2, maximum=2))
        for name in plan.activations
    }
    plain["g1"] = TensorRange(3.0, TensorStatistics(count=1, minimum=-3, maximum=3))
    assert with_common_scales(layers.model, plan, plain) == plain


def test_the_graph_has_one_scale_for_both(layers: Graph) -> None:
    table = CalibrationTable(
        method="auto", texts=1, tokens=1, source="", graph_digest="", data_digest="",
        ranges=shared(layers, 4.0),
    )  # fmt: skip
    graph = PassPipeline(table.passes()).run(layers).model.graph
    scales = {
        node.inputs[0].name: node.inputs[1].const_value.numpy().item()
        for node in graph
        if node.op_type == "QuantizeLinear"
    }
    assert scales["g0/smoothed"] == scales["g1/smoothed"]
    assert len(set(scales.values())) == 3
