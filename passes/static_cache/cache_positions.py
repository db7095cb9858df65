"""Give every row of a cached decoder positions of its own.

An exported decoder counts positions from the length of its cache, which is one number a call. With
a static cache every row has its own length, so whatever is a function of the position (the
index into a position table, the cosines and sines of rotary embedding) is looked up by row:

    f(past + arange(s))  [1, s, ...]  ->  Gather(table, write_indices[:, None] + arange(s))

with ``table[p] = f(p)`` for every position a slot has, computed in the dtype of the graph before
it is converted to a narrower one: an angle in float16 is off by radians at position 2,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import PassError
from ...graph.tensors import Array
from ..constants import initializer, replace_value
from .cache_samples import DecoderInputs, Sampler, Sizes, computes_activations

_SAMPLES = (
    Sizes(batch=2, sequence=5, past=3),
    Sizes(batch=2, sequence=5, past=8),  # as the first: what is equal does not depend on the past
    Sizes(batch=3, sequence=1, past=4),
    Sizes(batch=1, sequence=4, past=0),
)


@dataclass(frozen=True, kw_only=True)
class _Lookup:
    """A value that is a function of the position.

    Attributes:
        value: [1 or batch, 1, ..., sequence, ...], or [sequence].
        axis: where the sequence is.
        table: [length, ...], the function at every position.
    """

    value: ir.Value
    axis: int
    table: Array

    @property
    def offset(self) -> int | None:
        """What the function adds to the position, or None when it is another function."""
        first = int(self.table.reshape(-1)[0]) if self.table.dtype.kind in "iu" else 0
        counts = self.table.reshape(-1)
        same = counts.shape == (len(self.table),) and self.table.dtype.kind in "iu"
        return first if same and np.array_equal(counts, first + np.arange(len(counts))) else None


def replace_positions(
    model: ir.Model, inputs: DecoderInputs, tape: ir.tape.Tape, positions: ir.Value, length: int
) -> None:
    """Replace every value that depends on how much the cache holds.

    Args:
        model: the decoder, with static caches already.
        inputs: what its inputs are.
        tape: gets nodes that go before all others.
        positions: int64 [batch, sequence], recorded on the tape.
        length: tokens a slot holds.

    Raises:
        PassError: when such a value is not a function of the position, with the node that reads it.
    """
    readers = _boundary(model.graph, inputs)
    if not readers:
        return
    wanted = list(readers)
    sampler = Sampler(model, inputs, wanted)
    samples = [sampler(sizes) for sizes in _SAMPLES]
    whole = sampler(Sizes(batch=1, sequence=length, past=0))
    for index, value in enumerate(wanted):
        arrays = [sample[index] for sample in samples]
        if np.array_equal(arrays[0], arrays[1]):
            continue
        node = readers[value][0]
        where = f"{node.op_type} {node.name!r} reads {value.name!r}, which"
        lookup = _lookup(value, arrays, whole[index], length)
        if isinstance(lookup, str):
            raise PassError(f"{where} depends on the length of the cache and {lookup}")
        if lookup.axis == 0 and not all(_is_index(reader, value) for reader in readers[value]):
            raise PassError(f"{where} has the positions of all rows in one axis")
        _check_tables(lookup, readers[value])
        replace_value(value, _written(model.graph, tape, lookup, positions))


def _boundary(graph: ir.Graph, inputs: DecoderInputs) -> dict[ir.Value, list[ir.Node]]:
    """Values made from lengths alone that vary with the cache, and the layers that read them."""
    computable: set[ir.Value] = set(inputs.padding)
    varying: set[ir.Value] = set(inputs.padding)
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        of_input = node.op_type == "Shape" and read[0] in (*inputs.caches, inputs.tokens)
        constant = all(value in computable or value.const_value is not None for value in read)
        if of_input or (constant and read and not computes_activations(node)):
            computable.update(node.outputs)
            if (of_input and read[0] is not inputs.tokens) or varying.intersection(read):
                varying.update(node.outputs)
            continue
        for value in dict.fromkeys(read):
            if value in varying:
                readers.setdefault(value, []).append(node)
    return readers


def _lookup(value: ir.Value, arrays: list[Array], whole: Array, length: int) -> _Lookup | str:
    axis = _sequence_axis(arrays)
    if axis is None or whole.shape[axis:] != (length, *arrays[0].shape[axis + 1 :]):
        return f"has shape {list(arrays[0].shape)} at {_SAMPLES[0]}"
    table = whole.reshape(length, *whole.shape[axis + 1 :])
    for array, sizes in zip(arrays, _SAMPLES, strict=True):
        rows = table[sizes.past : sizes.past + sizes.sequence]
        wanted = np.broadcast_to(rows.reshape(1, *array.shape[1:]) if axis else rows, array.shape)
        if not np.allclose(array, wanted, rtol=1e-6, atol=1e-6):
            return "is no function of the position alone"
    return _Lookup(value=value, axis=axis, table=table)


def _sequence_axis(arrays: list[Array]) -> int | None:
    """The axis of the sequence, when before it are the batch, or 1, and axes of 1 alone."""
    rank = arrays[0].ndim
    if rank == 1:
        fits = all(a.shape == (sizes.sequence,) for a, sizes in zip(arrays, _SAMPLES, strict=True))
        return 0 if fits else None
    for axis in range(1, rank):
        if all(
            _has_axis(array, axis, sizes) for array, sizes in zip(arrays, _SAMPLES, strict=True)
        ):
            return axis
    return None


def _has_axis(array: Array, axis: int, sizes: Sizes) -> bool:
    batch, between, sequence = array.shape[0], array.shape[1:axis], array.shape[axis]
    return batch in (1, sizes.batch) and set(between) <= {1} and sequence == sizes.sequence


def _is_index(node: ir.Node, value: ir.Value) -> bool:
    return node.op_type == "Gather" and node.inputs[1] is value


def _check_tables(lookup: _Lookup, readers: list[ir.Node]) -> None:
    offset = lookup.offset
    for node in readers:
        table = node.inputs[0]
        if offset is None or not _is_index(node, lookup.value) or table is None:
            continue
        rows = 0 if table.const_value is None else table.const_value.shape[0]
        if isinstance(rows, int) and rows < len(lookup.table) + offset:
            raise PassError(
                f"the position table {table.name!r} has {rows} rows, {rows - offset} "
                f"positions, but a slot was asked to hold {len(lookup.table)} tokens; ask for less"
            )


def _written(graph: ir.Graph, tape: ir.tape.Tape, lookup: _Lookup, positions: ir.Value) -> ir.Value:
    dtype = ir.DataType.from_numpy(lookup.table.dtype)
    name = lookup.value.name or "positions"
    offset = lookup.offset
    if offset is None:
        table = initializer(graph, f"{name}.table", lookup.table)
        new = tape.op("Gather", [table, positions], {"axis": 0})
    else:
        new = positions
        if offset:
            step = initializer(graph, f"{name}.offset", np.array(offset, np.int64))
            new = tape.op("Add", [new, step])
        if dtype != ir.DataType.INT64:
            new = tape.op("Cast", [new], {"to": int(dtype)})
    return _laid_out(graph, tape, lookup, new, positions)


def _laid_out(
    graph: ir.Graph, tape: ir.tape.Tape, lookup: _Lookup, new: ir.Value, positions: ir.Value
) -> ir.Value:
    """[batch, sequence, ...] with the axes of 1 that the replaced value had."""
    batch, sequence = positions.shape or (None, None)
    rest = lookup.table.shape[1:]
    trailing = 0 if lookup.offset is None else len(rest)
    axes = [*range(1, lookup.axis), *range(lookup.axis + 1, lookup.axis + 1 + trailing)]
    if axes:
        name = f"{lookup.value.name}.axes"
        new = tape.op("Unsqueeze", [new, initializer(graph, name, np.array(axes, np.int64))])
    new.type = ir.TensorType(ir.DataType.from_numpy(lookup.table.dtype))
    new.shape = ir.Shape([batch, *[1] * (max(lookup.axis, 1) - 1), sequence, *rest])
    return new
