"""One matrix product a part, instead of one product that is cut afterwards.

    a, b, c = Split(x W + d)  ->  a = x W_a + d_a,  b = x W_b + d_b,  c = x W_c + d_c

The inverse of merge-qkv, for models whose weights are packed: Q, K and V of GPT-2 and ModernBERT,
gate and input of gated feed-forward blocks. Cutting copies every number once more, which costs more
than three smaller products (passes/costs). TensorRT cuts for free and keeps the one product in
floats; an INT8 one that is cut into Q, K and V it runs in float, and merges three into one again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import (
    array_of,
    initializer_of,
    insert_before,
    int_attribute,
    ints_of,
    producer,
    remove_dead,
    replace_value,
    static_dim,
)


@dataclass(frozen=True, kw_only=True)
class _Packed:
    """``Split(MatMul(x, weight) + bias)``.

    Attributes:
        name: of the product.
        source: x [..., hidden].
        weight: [hidden, sum of widths].
        bias: [sum of widths], or None.
        widths: of the parts.
    """

    name: str
    source: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    widths: tuple[int, ...]


@dataclass(frozen=True)
class SplitPackedWeights(Pass):
    """Cut the weights instead of the product, where nothing else reads the product."""

    name = "split-packed-weights"
    min_opset = 18

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites = 0
        for node in tuple(model.graph):
            packed = _packed(node)
            if packed is not None:
                _write(node, packed)
                rewrites += 1
        return result(model, rewrites)


def _packed(node: ir.Node) -> _Packed | None:
    if node.op_type != "Split" or node.domain or node.inputs[0] is None:
        return None
    total = node.inputs[0]
    rank = 0 if total.shape is None else len(total.shape)
    widths = _widths(node, total)
    if not rank or int_attribute(node, "axis", 0) not in (-1, rank - 1) or widths is None:
        return None
    add = producer(total, "Add")
    product = producer(total, "MatMul") if add is None else producer(add.inputs[0], "MatMul")
    bias = None if add is None else add.inputs[1]
    if product is None or (add is not None and not _is_vector(bias, sum(widths))):
        return None
    source, weight = product.inputs
    inner = {total, product.outputs[0]}
    if any(len(value.uses()) != 1 or value.is_graph_output() for value in inner):
        return None
    if source is None or weight is None or not _is_matrix(weight, sum(widths)):
        return None
    name = product.name or str(product.outputs[0].name)
    return _Packed(name=name, source=source, weight=weight, bias=bias, widths=widths)


def _widths(node: ir.Node, total: ir.Value) -> tuple[int, ...] | None:
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return ints_of(node.inputs[1])
    width, parts = static_dim(total, -1), len(node.outputs)
    return None if width is None or width % parts else (width // parts,) * parts


def _is_vector(value: ir.Value | None, width: int) -> bool:
    array = array_of(value)
    return array is not None and array.shape == (width,)


def _is_matrix(value: ir.Value, width: int) -> bool:
    array = array_of(value)
    # A weight that others read would be stored twice.
    return array is not None and array.shape[1:] == (width,) and len(value.uses()) == 1


def _write(node: ir.Node, packed: _Packed) -> None:
    assert node.graph is not None
    tape = ir.tape.Tape()
    start = 0
    for index, (output, width) in enumerate(zip(node.outputs, packed.widths, strict=True)):
        part = slice(start, start + width)
        start += width
        if not output.uses() and not output.is_graph_output():
            continue
        name = f"{packed.weight.name}.part{index}"
        weight = initializer_of(node.graph, name, _columns(packed.weight, part))
        value = tape.op("MatMul", [packed.source, weight], name=f"{packed.name}.part{index}")
        value.type, value.shape = output.type, output.shape
        if packed.bias is not None:
            name = f"{packed.bias.name}.part{index}"
            bias = initializer_of(node.graph, name, _columns(packed.bias, part))
            value = tape.op("Add", [value, bias])
            value.type, value.shape = output.type, output.shape
        replace_value(output, value)
    insert_before(node, tape.nodes)
    remove_dead(node)


def _columns(value: ir.Value, part: slice) -> ir.TensorProtocol:
    """Columns of a constant, copied when an engine reads them and not before."""
    array = array_of(value)
    assert array is not None
    shape = ir.Shape([*array.shape[:-1], part.stop - part.start])
    return ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(array[..., part])),
        dtype=ir.DataType.from_numpy(array.dtype),
        shape=shape,
        cache=True,
    )
