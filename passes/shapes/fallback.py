"""Ask ONNX's own shape inference about one node."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ...graph.tensors import Dim
from . import algebra
from .facts import LONGEST_CONTENT, Fact


def ask_onnx(node: ir.Node, inputs: list[Fact], opset: int) -> list[Fact]:
    """Facts of the outputs as the operator's schema infers them, [] where it cannot."""
    import onnx

    if any(attribute.type in _NESTED for attribute in node.attributes.values()):
        return []
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        imported = onnx.OperatorSetIdProto(domain="", version=opset)
        types = onnx.shape_inference.infer_node_outputs(
            schema, ir.to_proto(node), *_known(node, inputs), opset_imports=[imported]
        )
    except Exception:  # the C++ side raises its own types for what a schema does not allow
        return []
    return [_fact(types.get(value.name or "")) for value in node.outputs]


_NESTED = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _known(node: ir.Node, inputs: list[Fact]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Types of the inputs, and the values of small constants, by name and as protobuf."""
    types, data = {}, {}
    for value, fact in zip(node.inputs, inputs, strict=True):
        if value is None or fact.dtype is None:
            continue
        name = value.name or ""
        typed = ir.Value(
            name=name,
            type=ir.TensorType(fact.dtype),
            shape=None if fact.shape is None else ir.Shape(fact.shape),
        )
        types[name] = ir.to_proto(typed).type
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is not None and tensor.size <= LONGEST_CONTENT:
            data[name] = ir.to_proto(tensor)
    return types, data


def _fact(found: Any) -> Fact:
    if found is None or not found.HasField("tensor_type"):
        return Fact()
    tensor = found.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return Fact(dtype)
    dims: list[Dim | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        else:
            dims.append(algebra.normal(dim.dim_param) if dim.dim_param else None)
    return Fact(dtype, tuple(dims))
