"""The canonical nodes of a mask. `read` recognises them.

    row  = Unsqueeze(Cast(padding, bool), [1, 2])                        [batch, 1, 1, keys]
    near = And(GreaterOrEqual(k, q - back), LessOrEqual(k, q + ahead))   [queries, keys]
    mask = Where(And(row, near), 0, fill)                                [batch, 1, queries, keys]

with ``k = Range(0, keys)`` and ``q = Range(keys - queries, keys)`` as a column; a part that hides
nothing is left out, and a mask of padding alone is expanded to a row a query, which ONNX Runtime
1.31 does not broadcast. Additive and finite, so a row whose every key is hidden gets uniform
weights over all keys, as in PyTorch's eager attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..constants import initializer
from .fill import mask_fill
from .meaning import Mask

Length = tuple[tuple[ir.Value, int], ...]
"""A size as a sum of dims: values and axes."""


@dataclass(frozen=True)
class Lengths:
    """Where the sizes of a mask are read.

    Attributes:
        queries: the number of queries.
        keys: the number of keys; the same object when they are equally many.
    """

    queries: Length
    keys: Length


def write_mask(
    graph: ir.Graph, tape: ir.tape.Tape, mask: Mask, lengths: Lengths, dtype: ir.DataType
) -> ir.Value:
    """Record the canonical chain of a mask that hides something.

    Args:
        graph: gets the constants.
        tape: gets the nodes.
        mask: what to write.
        lengths: where the sizes are read.
        dtype: of the attention's queries.

    Returns:
        dtype [batch or 1, 1, queries, keys].
    """
    return _Writer(graph, tape).write(mask, lengths, dtype)


@dataclass(frozen=True)
class _Writer:
    graph: ir.Graph
    tape: ir.tape.Tape

    def write(self, mask: Mask, lengths: Lengths, dtype: ir.DataType) -> ir.Value:
        keep = self._all([*self._padding(mask), *self._band(mask, lengths)])
        if mask.padding is None:
            keep = self.tape.op("Unsqueeze", [keep, self._constant("axes", [0, 1])])
        zero = self._constant("keep", 0, dtype.numpy())
        fill = self._constant("drop", mask_fill(dtype), dtype.numpy())
        bias = self.tape.op("Where", [keep, zero, fill])
        if not mask.has_band and not mask.pads_queries:
            bias = self._expanded(bias, lengths.queries)
        batch = 1 if mask.padding is None else _dim(mask.padding, 0)
        queries, keys = (_sum_dim(length) for length in (lengths.queries, lengths.keys))
        bias.shape, bias.type = ir.Shape([batch, 1, queries, keys]), ir.TensorType(dtype)
        return bias

    def _padding(self, mask: Mask) -> list[ir.Value]:
        if mask.padding is None:
            return []
        token = self.tape.op("Cast", [mask.padding], {"to": ir.DataType.BOOL})
        axes = [[1, 2], [1, 3]] if mask.pads_queries else [[1, 2]]
        return [self.tape.op("Unsqueeze", [token, self._constant("axes", ax)]) for ax in axes]

    def _band(self, mask: Mask, lengths: Lengths) -> list[ir.Value]:
        if not mask.has_band:
            return []
        total = self._scalar(lengths.keys)
        zero, one = self._constant("zero", 0), self._constant("one", 1)
        keys = self.tape.op("Range", [zero, total, one])
        row = keys
        if lengths.queries != lengths.keys:
            past = self.tape.op("Sub", [total, self._scalar(lengths.queries)])
            row = self.tape.op("Range", [past, total, one])
        queries = self.tape.op("Unsqueeze", [row, self._constant("axes", [1])])
        limits = (("GreaterOrEqual", "Sub", mask.back), ("LessOrEqual", "Add", mask.ahead))
        return [
            self.tape.op(compare, [keys, self._moved(queries, move, by)])
            for compare, move, by in limits
            if by is not None
        ]

    def _moved(self, queries: ir.Value, move: str, by: int) -> ir.Value:
        return self.tape.op(move, [queries, self._constant("window", by)]) if by else queries

    def _all(self, parts: list[ir.Value]) -> ir.Value:
        whole = parts[0]
        for part in parts[1:]:
            whole = self.tape.op("And", [whole, part])
        return whole

    def _expanded(self, bias: ir.Value, queries: Length) -> ir.Value:
        sizes = self._constant("ones", [1, 1]), self._size(queries), self._constant("one", [1])
        return self.tape.op("Expand", [bias, self.tape.op("Concat", sizes, {"axis": 0})])

    def _size(self, length: Length) -> ir.Value:
        """A vector of one element."""
        parts = [
            self.tape.op("Shape", [value], {"start": axis, "end": axis + 1})
            for value, axis in length
        ]
        whole = parts[0]
        for part in parts[1:]:
            whole = self.tape.op("Add", [whole, part])
        return whole

    def _scalar(self, length: Length) -> ir.Value:
        return self.tape.op("Squeeze", [self._size(length), self._constant("axes", [0])])

    def _constant(
        self, name: str, content: object, dtype: np.dtype[np.generic] | type = np.int64
    ) -> ir.Value:
        return initializer(self.graph, f"mask.{name}", np.array(content, dtype))


def _dim(value: ir.Value, axis: int) -> int | ir.SymbolicDim:
    return ir.SymbolicDim(None) if value.shape is None else value.shape[axis]


def _sum_dim(length: Length) -> int | ir.SymbolicDim:
    return _dim(*length[0]) if len(length) == 1 else ir.SymbolicDim(None)
