"""What passes ask of constants and of the graph around a node, and how they change it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..graph.tensors import Array


def array_of(value: ir.Value | None) -> Array | None:
    """The constant behind a value as an array (a view where possible), or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar_of(value: ir.Value | None) -> float | None:
    """The value of a one-element constant of any rank, or None."""
    array = _small_array_of(value, 1)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def ints_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The integers of a small constant, or None."""
    array = _small_array_of(value, 64)
    if array is None or array.dtype.kind not in "iu":
        return None
    return tuple(int(item) for item in array.reshape(-1))


def _small_array_of(value: ir.Value | None, most: int) -> Array | None:
    """The constant when it has so few elements: large ones may have to be computed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor.numpy() if tensor is not None and tensor.size <= most else None


def scalar_mismatch(name: str, value: ir.Value | None, wanted: float) -> str | None:
    """None when the value is the wanted scalar within 1e-3 relative, else the reason."""
    got = scalar_of(value)
    if got is None:
        return f"{name} is not a scalar constant"
    # 1e-3 admits constants that went through float16 and no other equation's constant.
    return (
        None
        if math.isclose(got, wanted, rel_tol=1e-3)
        else f"{name} is {got:.6g}, not {wanted:.6g}"
    )


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard-domain node that produces the value if it is one of the operators, or None."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in op_types:
        return None
    return node


def sole_consumer(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The only node that reads the value, if it is one of the operators; None for outputs."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = next(iter(uses)).node
    return node if node.domain in ("", "ai.onnx") and node.op_type in op_types else None


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def ints_attribute(node: ir.Node, name: str) -> tuple[int, ...]:
    """An integer-list attribute, empty when absent."""
    attribute = node.attributes.get(name)
    return () if attribute is None else tuple(attribute.as_ints())


def permutation_of(transpose: ir.Node) -> tuple[int, ...]:
    """The axes of a Transpose: all in reverse without the attribute, empty for an unknown rank."""
    written = ints_attribute(transpose, "perm")
    value = transpose.inputs[0]
    if written or value is None or value.shape is None:
        return written
    return tuple(reversed(range(len(value.shape))))


def static_dim(value: ir.Value, axis: int) -> int | None:
    """The static size of an axis, or None when the rank or the size is unknown."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Register a new constant under a free name derived from the given one."""
    # Not ascontiguousarray, which makes a scalar a vector.
    return initializer_of(graph, name, ir.tensor(np.asarray(array, order="C")))


def initializer_of(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a tensor under a free name derived from the given one."""
    free, number = name, 1
    while free in graph.initializers:
        number += 1
        free = f"{name}_{number}"
    tensor.name = free
    value = ir.Value(
        name=free,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old` read `new`, graph outputs included, keeping the output's name."""
    new.shape = new.shape or old.shape
    new.type = new.type or old.type
    if old.is_graph_output():
        old.name, new.name = f"{old.name}_replaced", old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def insert_before(anchor: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Insert nodes in front of the anchor, in its graph."""
    assert anchor.graph is not None
    anchor.graph.insert_before(anchor, list(nodes))


def remove_dead(*nodes: ir.Node) -> None:
    """Remove nodes nobody reads any more, and then their producers, transitively."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node.graph is None or any(out.uses() or out.is_graph_output() for out in node.outputs):
            continue
        producers = [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        pending.extend(producer for producer in producers if producer is not None)
