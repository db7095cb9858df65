"""One matrix product for Q, K and V.

    q = x Wq + bq,  k = x Wk + bk,  v = x Wv + bv  ->  q, k, v = Split(x [Wq Wk Wv] + [bq bk bv])

In no preset: TensorRT merges the three by itself, and on ORT CPU the copies of Split cost more than
the larger product saves (1.04 of three products at [8, 128], 1.00 at [1, 128]; MiniLM, two threads,
x86-64 with AVX-512, benchmarks/ablation.py). For CPUs where that measures otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ...graph.tensors import Array
from ..base import Pass, PassResult, result
from ..constants import (
    array_of,
    initializer,
    initializer_of,
    insert_before,
    producer,
    remove_dead,
    replace_value,
    sole_consumer,
)


@dataclass(frozen=True)
class _Projection:
    """``MatMul(x, weight) + bias`` read by one Attention alone. weight: [hidden, width]."""

    output: ir.Value
    source: ir.Value
    weight: ir.Value
    bias: ir.Value


@dataclass(frozen=True)
class MergeQkv(Pass):
    """Merge the three projections in front of every self-attention."""

    name = "merge-qkv"
    min_opset = 23

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Attention" or node.domain or "q_num_heads" not in node.attributes:
                continue
            found = [_projection(value) for value in node.inputs[:3]]
            projections = [item for item in found if isinstance(item, _Projection)]
            reason = _difference(found, projections)
            if reason is None:
                _merge(model.graph, node, projections)
                rewrites += 1
            elif reason != _DONE:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


_DONE = "its inputs come from one Split"


def _projection(value: ir.Value | None) -> _Projection | str:
    if producer(value, "Split") is not None:
        return _DONE
    add = producer(value, "Add")
    product = None if add is None else producer(add.inputs[0], "MatMul")
    if value is None or add is None or product is None:
        return "an input is not MatMul + bias"
    source, weight, bias = product.inputs[0], product.inputs[1], add.inputs[1]
    matrix, vector = array_of(weight), array_of(bias)
    if source is None or weight is None or bias is None or matrix is None or vector is None:
        return "a projection has no constant weight and bias"
    if matrix.ndim != 2 or vector.shape != (matrix.shape[1],):
        return f"a projection has weight {list(matrix.shape)} and bias {list(vector.shape)}"
    if (
        sole_consumer(value, "Attention") is None
        or sole_consumer(product.outputs[0], "Add") is None
    ):
        return "a projection has other readers"
    return _Projection(value, source, weight, bias)


def _difference(found: list[_Projection | str], projections: list[_Projection]) -> str | None:
    reasons = [item for item in found if isinstance(item, str)]
    if reasons:
        return reasons[0]
    if len({id(item.source) for item in projections}) != 1:
        return "Q, K and V are projected from different tensors"
    return None


def _merge(graph: ir.Graph, node: ir.Node, projections: list[_Projection]) -> None:
    name = f"{projections[0].weight.name}.qkv"
    widths = [_array(item.weight).shape[1] for item in projections]
    weight = initializer_of(graph, name, _joined([item.weight for item in projections]))
    bias = np.concatenate([_array(item.bias) for item in projections])
    tape = ir.tape.Tape()
    product = tape.op("MatMul", [projections[0].source, weight])
    total = tape.op("Add", [product, initializer(graph, f"{name}.bias", bias)])
    sizes = initializer(graph, f"{name}.widths", np.array(widths, np.int64))
    parts = tape.op_multi_out("Split", [total, sizes], {"axis": -1}, num_outputs=3)
    shape, dtype = projections[0].output.shape, projections[0].output.type
    for value in (product, total):
        value.type = dtype
        value.shape = None if shape is None else ir.Shape([*shape[:-1], sum(widths)])
    insert_before(node, tape.nodes)
    for item, part in zip(projections, parts, strict=True):
        old = item.output.producer()
        replace_value(item.output, part)
        assert old is not None
        remove_dead(old)


def _joined(weights: list[ir.Value]) -> ir.TensorProtocol:
    """The weights side by side, joined when an engine reads them and not before."""
    arrays = [_array(value) for value in weights]
    dtype = ir.DataType.from_numpy(arrays[0].dtype)
    shape = ir.Shape([arrays[0].shape[0], sum(array.shape[1] for array in arrays)])
    return ir.LazyTensor(
        lambda: ir.tensor(np.concatenate(arrays, axis=1)), dtype=dtype, shape=shape, cache=True
    )


def _array(value: ir.Value) -> Array:
    array = array_of(value)
    assert array is not None
    return array
