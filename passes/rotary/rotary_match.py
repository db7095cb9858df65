"""Read a rotation of heads: which tensor is rotated, and by which tables.

    x * cos + Concat(-hi, lo) * sin                     halves of a head
    Concat(lo * cos - hi * sin, hi * cos + lo * sin)
    x * cos + Reshape(Stack(-odd, even)) * sin          neighbours, interleaved

The halves are slices or the outputs of a Split, factors and terms stand in any order, and Casts to
a tensor's own type are looked through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from ..casts import uncast, unwidened
from ..constants import int_attribute, ints_of, producer, scalar_of, sole_consumer, static_dim
from ..last_axis import every_second_of, part_of
from .rotary_tables import TableMiss, is_flattening


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What is rotated, and how.

    Attributes:
        x: [batch, heads, sequence, size], or the middle axes swapped.
        cos: table, as wide as x or half as wide.
        sin: likewise.
        output: of x's shape.
        doubled: whether the tables are as wide as x.
        interleaved: whether neighbours are rotated, and not the halves.
    """

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    output: ir.Value
    doubled: bool = True
    interleaved: bool = False


def rotation_of(node: ir.Node) -> Rotation | None:
    """The rotation whose last operator a node is, or None where it is none at all."""
    if node.domain or node.op_type not in ("Add", "Concat") or len(node.inputs) != 2:
        return None
    if node.op_type == "Concat":
        return _of_halves(node)
    products = [_factors(value) for value in node.inputs]
    for straight, turned in (products, products[::-1]):
        for quarter_turn, sin in turned:
            found = _turned(quarter_turn) if straight else None
            if found is None:
                continue
            whole, interleaved = found
            x, cos = _straight(whole, straight)
            return Rotation(
                x=x, cos=cos, sin=uncast(sin), output=node.outputs[0], interleaved=interleaved
            )
    return None


def _factors(value: ir.Value | None) -> tuple[tuple[ir.Value, ir.Value], ...]:
    """Both orders of the factors of a product."""
    node = None if value is None else producer(uncast(value), "Mul")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return ()
    left, right = node.inputs[0], node.inputs[1]
    return ((left, right), (right, left))


def _turned(value: ir.Value) -> tuple[ir.Value, bool] | None:
    """The tensor of which a value is a quarter turn, and whether of neighbours."""
    value = uncast(value)
    node = producer(value, "Concat")
    if node is not None and len(node.inputs) == 2 and node.inputs[1] is not None:
        high = _negated(node.inputs[0])
        return None if high is None else (_whole(node.inputs[1], high), False)
    reshape = producer(value, "Reshape")
    stack = None if reshape is None else producer(reshape.inputs[0], "Concat")
    if reshape is None or stack is None or len(stack.inputs) != 2:
        return None
    first, second = (_column(item) for item in stack.inputs)
    odd = None if first is None else _negated(first)
    if odd is None or second is None:
        return None
    return _interleaved(reshape, odd, second), True


def _column(value: ir.Value | None) -> ir.Value | None:
    """What is unsqueezed to [..., n, 1]."""
    node = producer(value, "Unsqueeze")
    if value is None or node is None or value.shape is None:
        return None
    axes = [axis % len(value.shape) for axis in ints_of(node.inputs[1]) or ()]
    return node.inputs[0] if axes == [len(value.shape) - 1] else None


def _interleaved(reshape: ir.Node, odd: ir.Value, even: ir.Value) -> ir.Value:
    """The tensor of which odd and even columns were stacked and flattened."""
    first, second = every_second_of(uncast(even)), every_second_of(uncast(odd))
    if first is None or second is None or (first[1], second[1]) != (0, 1):
        raise TableMiss(f"{even.name!r} and {odd.name!r} are not the even and the odd columns")
    if unwidened(first[0]) is not unwidened(second[0]):
        raise TableMiss(f"{even.name!r} and {odd.name!r} are columns of two tensors")
    if not is_flattening(reshape):
        raise TableMiss(f"Reshape {reshape.name!r} does not flatten the last two axes alone")
    return first[0]


def _negated(value: ir.Value | None) -> ir.Value | None:
    node = producer(value, "Neg", "Mul")
    if node is None or (node.op_type == "Mul" and scalar_of(node.inputs[1]) != -1.0):
        return None
    return node.inputs[0]


def _straight(
    whole: ir.Value, factors: tuple[tuple[ir.Value, ir.Value], ...]
) -> tuple[ir.Value, ir.Value]:
    """The tensor that is turned as its product with a table reads it, and the table."""
    for x, cos in factors:
        if unwidened(x) is unwidened(whole):
            return uncast(x), uncast(cos)
    raise TableMiss(
        f"{whole.name!r} is turned, but the product that is added has the factors "
        f"{factors[0][0].name!r} and {factors[0][1].name!r}"
    )


def _whole(low: ir.Value, high: ir.Value) -> ir.Value:
    """The tensor of two halves.

    Raises:
        TableMiss: when they are not the halves of one tensor.
    """
    first, second = part_of(uncast(low)), part_of(uncast(high))
    if first is None or second is None:
        raise TableMiss(f"{low.name!r} and {high.name!r} are no parts of known width of a tensor")
    if unwidened(first.source) is not unwidened(second.source):
        raise TableMiss(f"{low.name!r} and {high.name!r} are parts of two tensors")
    width = static_dim(first.source, -1)
    got = (first.start, first.stop, second.start, second.stop)
    if width is None or got != (0, first.stop, first.stop, width) or 2 * first.stop != width:
        raise TableMiss(f"{low.name!r} and {high.name!r} are columns {got}, no halves of {width}")
    return first.source


def _of_halves(node: ir.Node) -> Rotation | None:
    """``Concat(lo * cos - hi * sin, hi * cos + lo * sin)``."""
    minus, plus = producer(node.inputs[0], "Sub"), producer(node.inputs[1], "Add")
    if minus is None or plus is None:
        return None
    sums = [*plus.inputs, *plus.inputs[::-1]]
    for low, cos in _factors(minus.inputs[0]):
        for high, sin in _factors(minus.inputs[1]):
            for left, right in (sums[:2], sums[2:]):
                if (high, cos) in _factors(left) and (low, sin) in _factors(right):
                    if part_of(uncast(low)) is None:  # cos and lo may have changed places
                        continue
                    return Rotation(
                        x=uncast(_whole(low, high)),
                        cos=uncast(cos),
                        sin=uncast(sin),
                        doubled=False,
                        output=node.outputs[0],
                    )
    return None


def with_rest(rotation: Rotation) -> Rotation:
    """The same on the whole head where the columns that are not rotated are appended."""
    concat = sole_consumer(rotation.output, "Concat")
    if concat is None or len(concat.inputs) != 2:
        return rotation
    appended = concat.inputs[1]
    if appended is None or int_attribute(concat, "axis", 0) not in (-1, 3):
        return rotation
    if static_dim(appended, -1) == 0:  # every column is rotated
        return replace(rotation, output=concat.outputs[0])
    first, rest = part_of(rotation.x), part_of(appended)
    if first is None or rest is None or first.start != 0:
        return rotation
    joined = unwidened(rest.source) is unwidened(first.source) and rest.start == first.stop
    if not joined or rest.stop != static_dim(first.source, -1):
        return rotation
    return replace(rotation, x=first.source, output=concat.outputs[0])
