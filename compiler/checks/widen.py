"""A 16-bit graph in float32 arithmetic: rounded weights, exact activations.

ONNX Runtime has no bfloat16 kernels for most operators on the CPU. Widening keeps the structure and
the rounding of the weights, which is what can be checked of such a graph without a GPU; the
rounding of activations is not. Two float16 graphs of one meaning differ by roundings that hide a
fault of their size; widened, they differ by those of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import onnx_ir as ir

from ...graph.model import Graph

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")


def widen_bfloat16(graph: Graph) -> Graph:
    """The graph with every bfloat16 tensor in float32; the given graph is not changed."""
    return _widen(graph, frozenset({ir.DataType.BFLOAT16}))


def widen_halves(graph: Graph) -> Graph:
    """The graph with every 16-bit float in float32, inputs too; the given graph is not changed."""
    wide = _widen(graph, _HALVES)
    for value in wide.model.graph.inputs:
        if value.dtype in _HALVES:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    return wide


def holds_float16(graph: Graph) -> bool:
    """Whether an input, a weight or a typed result of the graph, branches included, is float16."""
    nodes = ir.traversal.RecursiveGraphIterator(graph.model.graph)
    results = (value.dtype for node in nodes for value in node.outputs)
    inputs = (value.dtype for value in graph.model.graph.inputs)
    tensors = (value.const_value for value in _initializers(graph.model))
    weights = (tensor.dtype for tensor in tensors if tensor is not None)
    return ir.DataType.FLOAT16 in chain(inputs, weights, results)


def _widen(graph: Graph, dtypes: frozenset[ir.DataType]) -> Graph:
    model = graph.model.clone()
    for value in _initializers(model):
        tensor = value.const_value
        if tensor is not None and tensor.dtype in dtypes:
            value.const_value = _widened(tensor, dtypes)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        _widen_attributes(node, dtypes)
        for output in node.outputs:
            if output.dtype in dtypes:
                output.type = ir.TensorType(ir.DataType.FLOAT)
    return Graph(model, graph.history)


def _initializers(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.initializers.values()
    for subgraph in model.graph.subgraphs():
        yield from subgraph.initializers.values()


def _widen_attributes(node: ir.Node, dtypes: frozenset[ir.DataType]) -> None:
    for name in _DTYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is None or attribute.type != ir.AttributeType.INT:
            continue
        if attribute.as_int() in dtypes:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    fill = node.attributes.get("value")
    if fill is not None and fill.type == ir.AttributeType.TENSOR:
        node.attributes["value"] = ir.AttrTensor("value", _widened(fill.as_tensor(), dtypes))


def _widened(tensor: ir.TensorProtocol, dtypes: frozenset[ir.DataType]) -> ir.TensorProtocol:
    if tensor.dtype not in dtypes:
        return tensor
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
