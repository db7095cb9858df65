from __future__ import annotations

import onnx_ir as ir

from fuselage.compiler.modules import operators_by_module
from fuselage.graph.model import Graph

TEXT = """
<ir_version: 10, opset_import: ["" : 23, "acme" : 1]>
model (float[2] x) => (float[2] y)
{
    a = Add (x, x)
    b = Mul (a, a)
    c = Add (b, b)
    y = acme.Twist (c)
}
"""


def test_operators_are_counted_by_the_module_in_their_name() -> None:
    model = ir.from_onnx_text(TEXT)
    names = ("h.0.mlp/Add", "h.0.mlp/Mul", "h.0.mlp/Add_1", "t")
    for node, name in zip(model.graph, names, strict=True):
        node.name = name
    assert operators_by_module(Graph(model)) == {
        "h.0.mlp": {"Add": 2, "Mul": 1},
        "": {"acme::Twist": 1},
    }
