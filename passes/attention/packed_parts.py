"""Read how the parts of a packed projection are taken apart.

Reshape(packed, [b, s, 3, heads, size]), transposed or not, then Gather, Slice and Squeeze, or
Split and Squeeze along the axis of 3, in any layout of the last three axes
Reshape(packed, [b, s, heads, 3 * size]), transposed or not, then Slice or Split of the last axis
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..constants import (
    int_attribute,
    ints_of,
    permutation_of,
    producer,
    scalar_of,
    sole_consumer,
    static_dim,
)
from ..last_axis import part_of

_STANDARD = ("", "ai.onnx")


class Miss(Exception):  # noqa: N818  (control flow between this file and its pass)
    """Why the parts cannot be split off the packed tensor."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A tensor whose last axis packs parts.

    Attributes:
        source: [batch, sequence, width].
        sizes: sizes of the three axes the last one is read as, in the order it packs them.
        parts_axis: which of the three counts the parts.
        parts: each part's tensor and its index.
        order: where the axes [batch, sequence, ...] of a part come from, as a permutation of the
            four that are left when the parts are on the first of the three axes.
    """

    source: ir.Value
    sizes: tuple[int, int, int]
    parts_axis: int
    parts: tuple[tuple[ir.Value, int], ...]
    order: tuple[int, ...]


def packed_of(reshape: ir.Node) -> Packed | None:
    """What a Reshape unpacks, or None where it does not look like a packed projection.

    Raises:
        Miss: when it does, but its rows move or its parts are read in other ways too.
    """
    output, source = reshape.outputs[0], reshape.inputs[0]
    if source is None or source.shape is None or output.shape is None or len(source.shape) != 3:
        return None
    trailing = list(output.shape)[2:]
    if not all(isinstance(dim, int) for dim in trailing):
        return None
    sizes = [int(dim) for dim in trailing if isinstance(dim, int)]
    labels, value = _transposed(output)
    if len(labels) != len(output.shape):
        return None
    if len(sizes) == 3:
        found = _selected(value, labels)
    elif len(sizes) == 2 and labels[-1] == 3:
        found = _thirds(value)
        sizes = [sizes[0], 3, sizes[1] // 3]
        labels = [label + (label == 3) for label in labels]
    else:
        return None
    if found is None:
        return None
    label, parts = found
    if list(source.shape)[:2] != list(output.shape)[:2]:
        raise Miss(f"Reshape {reshape.name!r} turns {source.shape} into {output.shape}")
    left = sorted({0, 1, 2, 3, 4} - {label})
    return Packed(
        source=source,
        sizes=(sizes[0], sizes[1], sizes[2]),
        parts_axis=label - 2,
        parts=tuple(parts),
        order=tuple(left.index(item) for item in labels if item != label),
    )


def _transposed(value: ir.Value) -> tuple[list[int], ir.Value]:
    """Which axis of the reshaped tensor each axis is, behind a Transpose that alone reads it."""
    assert value.shape is not None
    transpose = sole_consumer(value, "Transpose")
    if transpose is None:
        return list(range(len(value.shape))), value
    return list(permutation_of(transpose)), transpose.outputs[0]


def _selected(value: ir.Value, labels: list[int]) -> tuple[int, list[tuple[ir.Value, int]]] | None:
    """The label of the axis along which single entries are taken, and the entries."""
    found: list[tuple[int, ir.Value, int]] = []
    strangers = 0
    for use in value.uses():
        picks = _picks(use.node, value) if use.idx == 0 else []
        found += picks
        strangers += not picks
    axes = {axis % len(labels) for axis, _, _ in found}
    if not found or len(axes) != 1 or labels[min(axes)] < 2:
        return None
    if strangers:
        raise Miss(f"{value.name!r} is read by others than those who take single parts of it")
    return labels[min(axes)], [(part, index) for _, part, index in found]


def _picks(node: ir.Node, value: ir.Value) -> list[tuple[int, ir.Value, int]]:
    """Axis, entry and index of every single entry a node takes of a value."""
    if node.domain not in _STANDARD:
        return []
    if node.op_type == "Gather":
        return _gathered(node, value)
    if node.op_type == "Slice":
        return _sliced(node, value)
    if node.op_type != "Split":
        return []
    axis = int_attribute(node, "axis", 0)
    entries = [_squeezed(output, axis) for output in node.outputs]
    picks = [(axis, entry, index) for index, entry in enumerate(entries) if entry is not None]
    return picks if len(picks) == len(entries) else []


def _sliced(node: ir.Node, value: ir.Value) -> list[tuple[int, ir.Value, int]]:
    if len(node.inputs) < 4:
        return []
    starts, ends, axes = (ints_of(item) for item in node.inputs[1:4])
    if starts is None or ends is None or axes is None or len(axes) != 1:
        return []
    size = static_dim(value, axes[0])
    squeezed = _squeezed(node.outputs[0], axes[0])
    if size is None or squeezed is None:
        return []
    return [(axes[0], squeezed, slice(starts[0], ends[0]).indices(size)[0])]


def _gathered(node: ir.Node, value: ir.Value) -> list[tuple[int, ir.Value, int]]:
    indices, axis = node.inputs[1], int_attribute(node, "axis", 0)
    index, size = scalar_of(indices), static_dim(value, axis)
    scalar = indices is not None and indices.shape is not None and len(indices.shape) == 0
    if index is None or size is None or not scalar or not -size <= index < size:
        return []
    return [(axis, node.outputs[0], int(index) % size)]


def _squeezed(value: ir.Value, axis: int) -> ir.Value | None:
    """The value without an axis, where that is how it alone is read."""
    squeeze = sole_consumer(value, "Squeeze")
    if squeeze is None or value.shape is None or len(squeeze.inputs) < 2:
        return None
    rank = len(value.shape)
    axes = [item % rank for item in ints_of(squeeze.inputs[1]) or ()]
    return squeeze.outputs[0] if axes == [axis % rank] else None


def _thirds(value: ir.Value) -> tuple[int, list[tuple[ir.Value, int]]] | None:
    """The thirds of the last axis, under the label of the axis of 3 that is not written."""
    width = static_dim(value, -1)
    parts = []
    for use in value.uses():
        outputs = use.node.outputs if producer(use.node.outputs[0], "Slice", "Split") else ()
        for output in outputs:
            part = part_of(output)
            if width is None or part is None or part.source is not value:
                return None
            if 3 * part.width != width or part.start % part.width:
                return None
            parts.append((output, part.start // part.width))
        if not outputs:
            return None
    return (3, parts) if {index for _, index in parts} == {0, 1, 2} else None
