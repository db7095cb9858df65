"""Write Einsum as the transpositions and the one MatMul it is.

    Einsum("ibnd,jbnd->bnij", x, y)  ->  MatMul(x as [b, n, i, d], y as [b, n, d, j])

Older models write their attention and their projections so, and every rule reads MatMul. Labels of
both operands are a batch when the output has them, else they are summed over; labels of one operand
are rows and columns. Several labels that are summed over, and several columns without a batch, are
merged into one axis when their sizes are static.

Source: https://onnx.ai/onnx/operators/onnx__Einsum.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import initializer, insert_before, replace_value

_Dims = list[int | ir.SymbolicDim]


@dataclass(frozen=True)
class ExpandEinsum(Pass):
    """Replace every Einsum that is a permutation or a (batched) matrix product."""

    name = "expand-einsum"
    min_opset = 14  # Reshape keeps zeros apart from copies

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.op_type != "Einsum" or node.domain:
                continue
            reason = _expand(node)
            if reason is None:
                rewrites += 1
            else:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _expand(node: ir.Node) -> str | None:
    """Rewrite one node; the reason when it cannot be."""
    equation = node.attributes["equation"].as_string().replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or any(len(set(t)) < len(t) for t in (*terms, out)):
        return f"{equation!r} leaves its output open, broadcasts or takes a diagonal"
    operands = [
        _Operand(value, term)
        for value, term in zip(node.inputs, terms, strict=True)
        if value is not None and value.shape is not None and len(value.shape) == len(term)
    ]
    if len(operands) != len(terms) or len(terms) > 2:
        return f"{equation!r} has more than two operands, or operands of unknown rank"
    assert node.graph is not None
    write = _Writer(node.graph, ir.tape.Tape())
    if len(operands) == 1:
        if sorted(terms[0]) != sorted(out):
            return f"{equation!r} sums over an operand"
        if terms[0] == out:
            return f"{equation!r} changes nothing"
        new: _Operand | str = write.permuted(operands[0], out)
    else:
        new = _product(write, operands[0], operands[1], out)
    if isinstance(new, str):
        return f"{equation!r} {new}"
    insert_before(node, write.tape.nodes)
    replace_value(node.outputs[0], new.value)
    node.graph.remove(node, safe=True)
    return None


@dataclass(frozen=True)
class _Operand:
    """A tensor with a label for every axis."""

    value: ir.Value
    labels: str

    def size(self, label: str) -> int | ir.SymbolicDim:
        assert self.value.shape is not None
        return self.value.shape[self.labels.index(label)]


def _product(write: _Writer, x: _Operand, y: _Operand, out: str) -> _Operand | str:
    both = [label for label in x.labels if label in y.labels]
    if any((x.size(label) == 1) != (y.size(label) == 1) for label in both):
        return "broadcasts an axis of size 1"
    batch = "".join(label for label in both if label in out)
    summed = "".join(label for label in both if label not in out)
    rows = "".join(label for label in x.labels if label not in both)
    columns = "".join(label for label in y.labels if label not in both)
    if not summed or not rows or not columns or set(out) != {*batch, *rows, *columns}:
        return "is not a product of matrices"
    if batch and len(rows + columns) > 2:
        return "has several rows or columns in a batch"
    x, y = write.permuted(x, batch + rows + summed), write.permuted(y, batch + summed + columns)
    sizes = {label: y.size(label) for label in summed + columns}
    merged_sums, merged_columns = (_merged(sizes, group) for group in (summed, columns))
    if merged_sums is None or merged_columns is None:
        return "merges axes of unknown size"
    lead: _Dims = [x.size(label) for label in batch + rows]
    if len(summed) > 1:
        x = write.reshaped(x, [*lead, merged_sums], batch + rows + summed[0])
    if len(summed) > 1 or len(columns) > 1:
        front: _Dims = [y.size(label) for label in batch]
        labels = batch + summed[0] + columns[0]
        y = write.reshaped(y, [*front, merged_sums, merged_columns], labels)
    product = write.product(x, y, [*lead, merged_columns], batch + rows + columns[0])
    if len(columns) > 1:
        dims = [*lead, *(sizes[label] for label in columns)]
        product = write.reshaped(product, dims, batch + rows + columns)
    return write.permuted(product, out)


def _merged(sizes: dict[str, int | ir.SymbolicDim], group: str) -> int | ir.SymbolicDim | None:
    """The size of several axes in one."""
    if len(group) == 1:
        return sizes[group]
    known = [size for label in group if isinstance(size := sizes[label], int)]
    return math.prod(known) if len(known) == len(group) else None


@dataclass(frozen=True)
class _Writer:
    """Records typed nodes; an operation that changes nothing is none."""

    graph: ir.Graph
    tape: ir.tape.Tape

    def permuted(self, operand: _Operand, labels: str) -> _Operand:
        if operand.labels == labels:
            return operand
        order = [operand.labels.index(label) for label in labels]
        value = self.tape.op("Transpose", [operand.value], {"perm": order})
        return self._typed(value, operand, [operand.size(label) for label in labels], labels)

    def reshaped(self, operand: _Operand, dims: _Dims, labels: str) -> _Operand:
        """Merge or split trailing axes; dynamic ones in front are copied, one behind is left."""
        assert operand.value.shape is not None
        same = [old == new for old, new in zip(operand.value.shape, dims, strict=False)]
        kept = len(same) if all(same) else same.index(False)
        target = [
            dim if isinstance(dim, int) else 0 if place < kept else -1
            for place, dim in enumerate(dims)
        ]
        shape = initializer(self.graph, "einsum_shape", np.array(target, np.int64))
        value = self.tape.op("Reshape", [operand.value, shape])
        return self._typed(value, operand, dims, labels)

    def product(self, x: _Operand, y: _Operand, dims: _Dims, labels: str) -> _Operand:
        return self._typed(self.tape.op("MatMul", [x.value, y.value]), x, dims, labels)

    def _typed(self, value: ir.Value, like: _Operand, dims: _Dims, labels: str) -> _Operand:
        value.type, value.shape = like.value.type, ir.Shape(dims)
        return _Operand(value, labels)
