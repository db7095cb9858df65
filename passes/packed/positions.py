"""Positions that a graph counts along its sequence become those of the tokens' own texts.

    Slice(table [1, most, ...], 0, length)        ->  Gather(table [most, ...], position_ids)
    Unsqueeze(Range(0, length), [0, ...])         ->  Unsqueeze(position_ids, [...])
    CumSum(x, axis=1)                             ->  CumSum(x) less what is counted before the text

and what is counted for the distance of query and key stays, because within a text it is the same
along the row.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..constants import array_of, initializer, int_attribute, ints_of, producer, scalar_of
from .layout import PackedInputs
from .roles import Miss, rank_of


def gather_table(node: ir.Node, inputs: PackedInputs) -> ir.Value | None:
    """Rows of a constant by position, instead of its first `length` rows; None for another Slice.

    Raises:
        Miss: when the slice does not begin at the first position.
    """
    table = array_of(node.inputs[0])
    axes = ints_of(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = ints_of(node.inputs[4]) if len(node.inputs) > 4 else (1,)
    if table is None or axes is None or len(axes) != 1 or steps != (1,):
        return None
    axis = axes[0] % table.ndim
    if ints_of(node.inputs[1]) != (0,):
        raise Miss("it takes positions from another than the first on")
    if table.shape[:axis] != (1,) * axis or axis > 1:
        raise Miss(f"it takes positions along axis {axis} of a constant {list(table.shape)}")
    rows = table.reshape(table.shape[axis:])
    if rows.ndim == 1 and np.array_equal(rows, np.arange(rows.size)):
        return inputs.positions
    return _looked_up(f"{node.outputs[0].name}.table", rows, inputs)


def _looked_up(name: str, rows: Array, inputs: PackedInputs) -> ir.Value:
    value = initializer(inputs.graph, name, rows)
    return inputs.tape.op("Gather", [value, inputs.positions])


def is_count(node: ir.Node) -> bool:
    """Whether a Range is 0, 1, 2, ..."""
    return scalar_of(node.inputs[0]) == 0 and scalar_of(node.inputs[2]) == 1


def spread_count(node: ir.Node, inputs: PackedInputs) -> tuple[list[ir.Value], list[ir.Value]]:
    """Let the readers of Range(0, length) read positions.

    Returns:
        Values [rows, length, ...] that took the place of others, and values [length, length] that
        are distances.

    Raises:
        Miss: on a reader that is neither.
    """
    tokens: list[ir.Value] = []
    distances: list[ir.Value] = []
    _spread(node.outputs[0], inputs.positions, inputs, tokens, distances)
    return tokens, distances


def _spread(
    count: ir.Value,
    positions: ir.Value,
    inputs: PackedInputs,
    tokens: list[ir.Value],
    distances: list[ir.Value],
) -> None:
    for reader, index in tuple(count.uses()):
        output = reader.outputs[0]
        if reader.op_type == "Cast":
            dtype = reader.attributes["to"].as_int()
            cast = inputs.tape.op("Cast", [positions], {"to": dtype})
            _spread(output, cast, inputs, tokens, distances)
        elif reader.op_type == "Gather" and index == 1 and int_attribute(reader, "axis", 0) == 0:
            found = inputs.tape.op("Gather", [reader.inputs[0], positions])
            tokens.append(_replace(output, found, lifted=True))
        elif reader.op_type == "Unsqueeze":
            _unsqueezed(reader, positions, inputs, tokens, distances)
        else:
            raise Miss(f"{reader.op_type} reads positions that are counted along the sequence")


def _unsqueezed(
    node: ir.Node,
    positions: ir.Value,
    inputs: PackedInputs,
    tokens: list[ir.Value],
    distances: list[ir.Value],
) -> None:
    output = node.outputs[0]
    readers = [reader for reader, _ in output.uses()]
    if readers and all(map(_is_distance, readers)):
        distances += [reader.outputs[0] for reader in readers]
        return
    axes = ints_of(node.inputs[1]) or ()
    rank = 1 + len(axes)
    places = sorted(axis % rank for axis in axes)
    if places[:1] != [0] or 1 in places:
        raise Miss(f"positions are counted along axis {next(iter({*range(rank)} - {*places}))}")
    rest = places[1:]
    new = inputs.tape.op("Unsqueeze", [positions, inputs.constant("axes", rest)])
    tokens.append(_replace(output, new if rest else positions))


def _is_distance(node: ir.Node) -> bool:
    """Whether it subtracts the count along one axis from that along another."""
    if node.op_type != "Sub":
        return False
    sides = [_counted_axis(value) for value in node.inputs]
    return None not in sides and sides[0] != sides[1]


def _counted_axis(value: ir.Value | None) -> int | None:
    """The axis of two along which a value counts from 0."""
    unsqueeze = producer(value, "Unsqueeze")
    source = None if unsqueeze is None else unsqueeze.inputs[0]
    while (cast := producer(source, "Cast")) is not None:
        source = cast.inputs[0]
    count = producer(source, "Range")
    if unsqueeze is None or count is None or not is_count(count):
        return None
    axes = ints_of(unsqueeze.inputs[1])
    return None if axes is None or len(axes) != 1 else 1 - axes[0] % 2


def _replace(old: ir.Value, new: ir.Value, *, lifted: bool = False) -> ir.Value:
    rest = list(old.shape or ())[1 if lifted else 2 :]
    new.type, new.shape = new.type or old.type, new.shape or ir.Shape([None, None, *rest])
    old.replace_all_uses_with(new)
    return new


def count_within_text(node: ir.Node, inputs: PackedInputs) -> ir.Value:
    """What a CumSum over the row counts from the beginning of each text on.

    Raises:
        Miss: when it counts backwards, without the token itself, or along another axis.
    """
    source, axis = node.inputs[0], scalar_of(node.inputs[1])
    flags = [int_attribute(node, name, 0) for name in ("reverse", "exclusive")]
    if source is None or rank_of(source) != 2 or axis not in (1, -1) or flags != [0, 0]:
        raise Miss("it counts otherwise than from the first token on")
    op = inputs.tape.op
    whole = op("CumSum", [source, node.inputs[1]])
    before = op("Sub", [whole, source])
    at_start = op("GatherElements", [before, inputs.starts()], {"axis": 1})
    counted = op("Sub", [whole, at_start])
    for value in (whole, before, at_start, counted):
        value.type, value.shape = source.type, ir.Shape([None, None])
    node.outputs[0].replace_all_uses_with(counted)
    return counted
