"""Parts of a tensor along its last axis, whether sliced or split off."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .constants import int_attribute, ints_of, producer, static_dim


@dataclass(frozen=True)
class Part:
    """The columns [start, stop) of a tensor.

    Attributes:
        source: the whole tensor.
        start: first column.
        stop: the column after the last.
    """

    source: ir.Value
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.stop - self.start


def part_of(value: ir.Value | None) -> Part | None:
    """The part a Slice with step 1 or a Split gives, or None; the width must be static."""
    node = producer(value, "Slice", "Split")
    if node is None or value is None or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    width = static_dim(source, -1)
    if width is None or source.shape is None:
        return None
    rank = len(source.shape)
    bounds = _sliced(node, rank, width) if node.op_type == "Slice" else _split(node, value, rank)
    return None if bounds is None else Part(source, *bounds)


def every_second_of(value: ir.Value) -> tuple[ir.Value, int] | None:
    """The tensor, and 0 or 1, of which a Slice takes the even or the odd columns."""
    node = producer(value, "Slice")
    source = None if node is None else node.inputs[0]
    if node is None or source is None or source.shape is None or len(node.inputs) != 5:
        return None
    starts, ends, axes, steps = (ints_of(item) for item in node.inputs[1:])
    width = static_dim(source, -1)
    if width is None or starts not in ((0,), (1,)) or steps != (2,) or not ends or not axes:
        return None
    last = len(axes) == 1 and axes[0] % len(source.shape) == len(source.shape) - 1
    return (source, starts[0]) if last and width % 2 == 0 and ends[0] >= width else None


def _sliced(node: ir.Node, rank: int, width: int) -> tuple[int, int] | None:
    starts, ends, axes, steps = (
        ints_of(node.inputs[index]) if len(node.inputs) > index else None for index in range(1, 5)
    )
    if axes is None or len(axes) != 1 or axes[0] % rank != rank - 1:
        return None
    if len(node.inputs) > 4 and steps != (1,):
        return None
    # A bound may be computed from the width; what inference knows of the output tells it.
    own = static_dim(node.outputs[0], -1)
    start = None if starts is None else slice(starts[0], None).indices(width)[0]
    stop = None if ends is None else slice(None, ends[0]).indices(width)[1]
    if start is None and stop is not None and own is not None:
        start = stop - own
    if stop is None and start is not None and own is not None:
        stop = start + own
    return None if start is None or stop is None or start >= stop else (start, stop)


def _split(node: ir.Node, value: ir.Value, rank: int) -> tuple[int, int] | None:
    if int_attribute(node, "axis", 0) % rank != rank - 1:
        return None
    widths = [static_dim(output, -1) for output in node.outputs]
    index = node.outputs.index(value)
    before, own = widths[:index], widths[index]
    if own is None or None in before:
        return None
    start = sum(width for width in before if width is not None)
    return start, start + own
