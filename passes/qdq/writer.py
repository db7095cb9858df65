"""Writes Q/DQ nodes and their constants into one graph, each tensor once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...errors import CalibrationError, GraphError
from .params import QuantParams, Scheme, quantize, weight_params


class QdqWriter:
    """Adds Q/DQ nodes to a graph and remembers what it has already quantised.

    Args:
        graph: that is written into.
        scheme: format of the codes.
    """

    def __init__(self, graph: ir.Graph, scheme: Scheme) -> None:
        self._graph = graph
        self._scheme = scheme
        self._names = _taken_names(graph)
        self._activations: dict[ir.Value, ir.Value] = {}
        self._matrices: dict[tuple[ir.Value, int, bool], ir.Value] = {}
        self._tables: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def activation(self, x: ir.Value, params: QuantParams, dtype: ir.DataType) -> ir.Value:
        """The tensor after Q and DQ, which stand next to its producer; `dtype` is of the scale."""
        if x in self._activations:
            return self._activations[x]
        scale = self.constant(f"{x.name}/scale", params.scale.astype(dtype.numpy()))
        zero_point = self.constant(f"{x.name}/zero_point", params.zero_point)
        quantized = self._node(
            "QuantizeLinear", [x, scale, zero_point], f"{x.name}/quantized", self._scheme.dtype
        )
        restored = self._node(
            "DequantizeLinear",
            [quantized.outputs[0], scale, zero_point],
            f"{x.name}/dequantized",
            dtype,
        )
        producer = x.producer()
        if producer is not None:
            self._graph.insert_after(producer, [quantized, restored])
        else:
            self._graph.insert_before(self._graph[0], [quantized, restored])
        self._activations[x] = restored.outputs[0]
        return restored.outputs[0]

    def matrix(
        self, weight: ir.Value, reader: ir.Node, *, axis: int, transposed: bool = False
    ) -> ir.Value:
        """A constant matrix out of codes and DQ, with one scale along an axis.

        Args:
            weight: the float constant.
            reader: in front of which DQ is put.
            axis: of the scales in the codes: 1 for ``[K, N]``, 0 for ``[N, K]``.
            transposed: whether the codes are those of the transposed constant.

        Raises:
            GraphError: when it holds NaN or infinity.
        """
        key = (weight, axis, transposed)
        if key not in self._matrices:
            codes, scale = self._codes(weight, reader, axis, transposed=transposed)
            self._matrices[key] = self._restored(weight, reader, codes, scale, axis)
        return self._matrices[key]

    def table(self, weight: ir.Value, reader: ir.Node) -> tuple[ir.Value, ir.Value]:
        """A constant matrix as codes behind DQ with a scale of one, and scales ``[rows, 1]``.

        Raises:
            GraphError: when it holds NaN or infinity.
        """
        if weight not in self._tables:
            codes, scale = self._codes(weight, reader, 0, transposed=False)
            restored = self._restored(weight, reader, codes, np.ones((), scale.dtype), None)
            scales = self.constant(f"{weight.name}/row_scales", scale.reshape(-1, 1))
            self._tables[weight] = (restored, scales)
        return self._tables[weight]

    def _codes(
        self, weight: ir.Value, reader: ir.Node, axis: int, *, transposed: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Codes, and scales in the dtype of the weight."""
        tensor = ir.convenience.get_const_tensor(weight)
        assert tensor is not None
        array = tensor.numpy()
        real = (array.T if transposed else array).astype(np.float32, copy=False)
        try:
            params = weight_params(real, axis, self._scheme)
        except CalibrationError as error:
            raise GraphError(f"{reader.name}: weight {str(weight.name)!r}: {error}") from error
        scale = params.scale.astype(array.dtype)
        # The codes must fit the scale that is stored, which float16 and bfloat16 round.
        stored = QuantParams(scale.astype(np.float32), axis, self._scheme)
        return np.ascontiguousarray(quantize(real, stored)), scale

    def _restored(
        self,
        weight: ir.Value,
        reader: ir.Node,
        codes: NDArray[Any],
        scale: NDArray[Any],
        axis: int | None,
    ) -> ir.Value:
        name = weight.name
        inputs = [
            self.constant(f"{name}/{self._scheme.name}", codes),
            self.constant(f"{name}/scale", scale),
            self.constant(f"{name}/zero_point", np.zeros(scale.shape, codes.dtype)),
        ]
        dtype = inputs[1].dtype
        assert dtype is not None
        node = self._node("DequantizeLinear", inputs, f"{name}/dequantized", dtype, axis=axis)
        self._graph.insert_before(reader, node)
        return node.outputs[0]

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A new initializer under a free name."""
        name = self._fresh(name)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        dtype: ir.DataType,
        axis: int | None = None,
    ) -> ir.Node:
        name = self._fresh(output)
        shape = inputs[0].shape
        value = ir.Value(
            name=name, type=ir.TensorType(dtype), shape=None if shape is None else shape.copy()
        )
        attributes = {} if axis is None else {"axis": axis}
        return ir.node(op_type, inputs, attributes, outputs=[value], name=name)

    def _fresh(self, name: str) -> str:
        fresh, count = name, 1
        while fresh in self._names:
            fresh, count = f"{name}_{count}", count + 1
        self._names.add(fresh)
        return fresh


def _taken_names(graph: ir.Graph) -> set[str | None]:
    taken: set[str | None] = set(graph.initializers)
    taken.update(value.name for value in graph.inputs)
    for node in graph.all_nodes():
        taken.add(node.name)
        taken.update(value.name for value in node.outputs)
    return taken
