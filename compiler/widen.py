"""A bfloat16 graph that a CPU can run: rounded weights, float32 arithmetic.

ONNX Runtime has no bfloat16 kernels for most operators on the CPU. Widening keeps the structure and
the rounding of the weights, which is what can be checked of such a graph without a GPU; the
rounding of activations is not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph.model import Graph


def widen_bfloat16(graph: Graph) -> Graph:
    """The graph with every bfloat16 tensor in float32; the given graph is not changed."""
    model = graph.model.clone()
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.BFLOAT16 and value.const_value is not None:
            value.const_value = _widened(value.const_value)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph:
        target = node.attributes.get("to")
        is_int = target is not None and target.type == ir.AttributeType.INT
        if target is not None and is_int and target.as_int() == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        fill = node.attributes.get("value")
        if fill is not None and fill.type == ir.AttributeType.TENSOR:
            node.attributes["value"] = ir.AttrTensor("value", _widened(fill.as_tensor()))
        for output in node.outputs:
            if output.dtype == ir.DataType.BFLOAT16:
                output.type = ir.TensorType(ir.DataType.FLOAT)
    return Graph(model, graph.history)


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype != ir.DataType.BFLOAT16:
        return tensor
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
