"""Change weight and bias of a linear in place, whatever form it is written in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...graph.tensors import Array
from ..constants import array_of, initializer, initializer_of, sole_consumer
from .policy import constant_operand
from .sites import bias_of

Floats = NDArray[np.float32]


def weight_of(gemm: ir.Node) -> Floats:
    """The weight as ``[K, N]`` float32, a view where possible."""
    operand = gemm.inputs[1]
    assert operand is not None
    found = constant_operand(operand)
    assert found is not None
    array = array_of(found[0])
    assert array is not None
    turned = found[1] != bool(gemm.attributes.get_int("transB", 0))
    return (array.T if turned else array).astype(np.float32, copy=False)


def has_bias(gemm: ir.Node) -> bool:
    """Whether a constant in the answer of a linear has a place to go."""
    if gemm.op_type == "Gemm":
        return len(gemm.inputs) > 2 and array_of(gemm.inputs[2]) is not None
    add = sole_consumer(gemm.outputs[0], "Add")
    return add is not None and _bias_operand(add, weight_of(gemm).shape[1]) is not None


def scale_weight(
    graph: ir.Graph, gemm: ir.Node, *, rows: Floats | None = None, columns: Floats | None = None
) -> None:
    """Give the GEMM a weight of its own, multiplied row by row or column by column.

    The product is computed each time it is read, so that no second copy of a model's weights is
    held.

    Args:
        graph: that holds the node.
        gemm: MatMul or Gemm with a constant weight.
        rows: a factor for each input channel, ``[K]``.
        columns: a factor for each output channel, ``[N]``.
    """
    old = gemm.inputs[1]
    assert old is not None
    found = constant_operand(old)
    assert found is not None
    weight, turn = found
    source = ir.convenience.get_const_tensor(weight)
    assert source is not None
    swapped = bool(gemm.attributes.get_int("transB", 0))

    def compute() -> ir.TensorProtocol:
        array = source.numpy()
        if turn:
            array = array.T
        down, across = (columns, rows) if swapped else (rows, columns)
        scaled = array.astype(np.float32, copy=False)
        scaled = scaled if down is None else scaled * down[:, None]
        scaled = scaled if across is None else scaled * across
        return ir.tensor(np.ascontiguousarray(scaled, array.dtype))

    shape = tuple(source.shape.numpy())
    lazy = ir.LazyTensor(
        compute, dtype=source.dtype, shape=ir.Shape(shape[::-1] if turn else shape), cache=False
    )
    _exchange(graph, gemm, 1, weight, lazy)


def add_to_bias(graph: ir.Graph, gemm: ir.Node, delta: Floats) -> None:
    """Add a constant to what a linear computes: to its bias where it has one, else by an Add.

    Args:
        graph: that holds the node.
        gemm: MatMul or Gemm.
        delta: ``[N]``, in units of the output.
    """
    if gemm.op_type == "Gemm":
        _add_to_gemm(graph, gemm, delta)
        return
    output = gemm.outputs[0]
    add = sole_consumer(output, "Add")
    at = None if add is None else _bias_operand(add, delta.size)
    if add is not None and at is not None:
        replace_constant(graph, add, at, _floats(add.inputs[at]) + delta)
        return
    bias = initializer(graph, f"{output.name}.bias", delta.astype(_numpy_dtype(output)))
    insert_behind(graph, output, "Add", bias)


def insert_behind(graph: ir.Graph, value: ir.Value, op_type: str, constant: ir.Value) -> None:
    """Let all readers of a value read ``value op constant`` under the value's name."""
    name = str(value.name)
    value.name = f"{name}/before_{constant.name}"
    made = ir.Value(
        name=name,
        type=ir.TensorType(value.dtype or ir.DataType.FLOAT),
        shape=None if value.shape is None else value.shape.copy(),
    )
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    node = ir.node(op_type, [value, constant], outputs=[made], name=f"{name}/{op_type.lower()}")
    maker = value.producer()
    assert maker is not None
    graph.insert_after(maker, node)


def replace_constant(graph: ir.Graph, node: ir.Node, at: int, array: Array) -> None:
    """Give a node a constant of its own in place of one that others may read."""
    old = node.inputs[at]
    assert old is not None
    assert old.dtype is not None
    _exchange(graph, node, at, old, ir.tensor(np.asarray(array, old.dtype.numpy(), order="C")))


def _exchange(
    graph: ir.Graph, node: ir.Node, at: int, constant: ir.Value, tensor: ir.TensorProtocol
) -> None:
    """Put a tensor in a constant's place; it inherits the name when the constant goes."""
    operand = node.inputs[at]
    assert operand is not None
    node.replace_input_with(at, None)
    drop_unread(graph, operand, constant)
    node.replace_input_with(at, initializer_of(graph, str(constant.name), tensor))


def drop_unread(graph: ir.Graph, *values: ir.Value) -> None:
    """Remove constants, and Transposes of constants, that nothing reads any more."""
    for value in values:
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            continue
        maker = value.producer()
        if maker is not None:
            graph.remove(maker, safe=True)
        elif value.is_initializer():
            del graph.initializers[str(value.name)]


def _add_to_gemm(graph: ir.Graph, gemm: ir.Node, delta: Floats) -> None:
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    factor = gemm.attributes.get_float("beta", 1.0)
    if bias is None or factor == 0.0:
        made = initializer(graph, f"{gemm.outputs[0].name}.bias", delta.astype(_weight_dtype(gemm)))
        gemm.resize_inputs(3)
        gemm.replace_input_with(2, made)
        gemm.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    elif array_of(bias) is not None:
        replace_constant(graph, gemm, 2, _floats(bias) + delta / np.float32(factor))
    else:
        output = gemm.outputs[0]
        made = initializer(graph, f"{output.name}.bias", delta.astype(_weight_dtype(gemm)))
        insert_behind(graph, output, "Add", made)


def _bias_operand(add: ir.Node, width: int) -> int | None:
    at = bias_of(add)
    constant = array_of(add.inputs[at])
    fits = constant is not None and constant.ndim <= 1 and constant.size in (1, width)
    return at if fits else None


def _floats(value: ir.Value | None) -> Floats:
    array = array_of(value)
    assert array is not None
    return array.astype(np.float32)


def _weight_dtype(gemm: ir.Node) -> np.dtype[np.generic]:
    weight = gemm.inputs[1]
    assert weight is not None
    assert weight.dtype is not None
    return weight.dtype.numpy()


def _numpy_dtype(value: ir.Value) -> np.dtype[np.generic]:
    dtype = value.dtype or ir.DataType.FLOAT
    return dtype.numpy()
