"""Packed weights are parted before calibration, so that smoothing finds a linear to go into."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fuselage.calibration.session import GraphSession
from fuselage.compiler.quantization.quantizable import quantizable
from fuselage.graph.model import Graph
from fuselage.passes.pipeline import PassPipeline
from fuselage.passes.qdq.policy import QuantPolicy
from fuselage.passes.qdq.sites import find_site
from fuselage.passes.qdq.smooth import SmoothActivations
from fuselage.passes.qdq.transform import ChannelTransform

TEXT = """<ir_version: 10, opset_import: ["" : 23]>
layer (float[batch, sequence, 32] x) => (float[batch, sequence, 32] y) {
    p = MatMul(x, wqkv)
    packed = Add(p, bqkv)
    q, k, v = Split <axis = -1, num_outputs = 3> (packed)
    a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
    o = MatMul(a, wo)
    g = MatMul(o, wgu)
    gate, up = Split <axis = -1, num_outputs = 2> (g)
    opened = Gelu(gate)
    h = Mul(opened, up)
    y = MatMul(h, wd)
}"""
SHAPES = {"wqkv": (32, 96), "bqkv": (96,), "wo": (32, 32), "wgu": (32, 96), "wd": (48, 32)}
WIDTHS = {"p": 96, "packed": 96, "g": 96, "gate": 48, "up": 48, "opened": 48, "h": 48}


def layer() -> Graph:
    rng = np.random.default_rng(2)
    tensors = [
        ir.tensor(rng.normal(0, 0.2, shape).astype(np.float32), name=name)
        for name, shape in SHAPES.items()
    ]
    model = ir.from_onnx_text(TEXT, tensors)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), value.const_value.shape
    for node in model.graph:
        for output in node.outputs:
            output.type = ir.TensorType(ir.DataType.FLOAT)
            width = WIDTHS.get(str(output.name), 32)
            output.shape = ir.Shape(["batch", "sequence", width])
    return Graph(model)


def sites(graph: Graph) -> dict[str, str]:
    nodes = {node.outputs[0].name: node for node in graph.model.graph}
    found = {}
    for linear in QuantPolicy().plan(graph.model).linears:
        reader = nodes[linear.output]
        assert reader.inputs[0] is not None
        found[linear.activation] = find_site(reader.inputs[0], [reader]).name
    return found


def test_smoothing_goes_through_the_cut_into_one_part() -> None:
    packed, parted = layer(), quantizable(layer())
    assert (sites(packed)["a"], sites(packed)["h"]) == ("explicit", "explicit")
    assert (sites(parted)["a"], sites(parted)["h"]) == ("linear", "linear")
    scales = {
        name: ChannelTransform(
            np.exp(np.linspace(-2, 2, width)).astype(np.float32), np.zeros(width, np.float32)
        )
        for name, width in (("a", 32), ("h", 48))
    }
    smoothed = PassPipeline((SmoothActivations(scales),)).run(parted)
    assert len(smoothed.model.graph) == len(parted.model.graph)
    feeds = {"x": np.random.default_rng(0).normal(0, 1, (3, 7, 32)).astype(np.float32)}
    with GraphSession(packed) as before, GraphSession(smoothed) as after:
        wanted, got = before.run(feeds)["y"], after.run(feeds)["y"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
