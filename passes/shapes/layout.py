"""Shapes of operators that move, cut or join elements."""

from __future__ import annotations

from ...graph.tensors import Dim
from ..constants import int_attribute, ints_attribute
from . import algebra
from .elementwise import broadcast
from .facts import Fact, Shape, Site


def reshape(at: Site) -> list[Fact]:
    """``Reshape``: 0 copies (unless allowzero), -1 is what is left."""
    data, target = at.inputs[0], at.inputs[1]
    if target.content is None:
        rank = target.shape[0] if target.shape is not None and len(target.shape) == 1 else None
        return [Fact(data.dtype, (None,) * rank if isinstance(rank, int) else None)]
    copies = not int_attribute(at.node, "allowzero", 0)
    dims: list[Dim | None] = list(target.content)
    for axis, dim in enumerate(dims):
        if dim == 0 and copies:
            dims[axis] = data.shape[axis] if data.shape and axis < len(data.shape) else None
    if -1 in dims:
        axis = dims.index(-1)
        dims[axis] = remainder(data.shape, (*dims[:axis], *dims[axis + 1 :]))
    return [Fact(data.dtype, tuple(map(_size_or_none, dims)))]


def _size_or_none(dim: Dim | None) -> Dim | None:
    """An expression that may be negative is not known to be a size: it could be the -1."""
    return dim if dim is not None and algebra.lowest(dim) >= 0 else None


def remainder(whole: Shape | None, others: Shape) -> Dim | None:
    """The size that makes the product of `others` equal that of `whole`."""
    if whole is None:
        return None
    left, right = list(whole), []
    for dim in others:  # cancel equal sizes first: sums do not divide
        if dim is not None and dim in left:
            left.remove(dim)
        else:
            right.append(dim)
    dividend, divisor = algebra.product_of(tuple(left)), algebra.product_of(tuple(right))
    if dividend is None or divisor is None or divisor == 0:
        return None
    return algebra.exact_quotient(dividend, divisor)


def transpose(at: Site) -> list[Fact]:
    """``Transpose``; without perm the axes are reversed."""
    shape = at.inputs[0].shape
    if shape is None:
        return [Fact(at.inputs[0].dtype)]
    order = ints_attribute(at.node, "perm") or tuple(reversed(range(len(shape))))
    return [Fact(at.inputs[0].dtype, tuple(shape[axis] for axis in order))]


def _axes(at: Site) -> tuple[int, ...] | None:
    """Axes from the attribute (opset 11 and older) or the second input; () when absent."""
    if "axes" in at.node.attributes:
        return ints_attribute(at.node, "axes")
    if len(at.inputs) < 2 or at.node.inputs[1] is None:
        return ()
    return at.inputs[1].ints()


def squeeze(at: Site) -> list[Fact]:
    """``Squeeze``; without axes every 1 goes, which needs all sizes known."""
    data, axes = at.inputs[0], _axes(at)
    if data.shape is None or axes is None:
        return [Fact(data.dtype)]
    if not axes and not all(isinstance(dim, int) for dim in data.shape):
        return [Fact(data.dtype)]
    gone = {axis % len(data.shape) for axis in axes} if axes else set()
    kept = (dim for axis, dim in enumerate(data.shape) if (axis not in gone if axes else dim != 1))
    return [Fact(data.dtype, tuple(kept))]


def unsqueeze(at: Site) -> list[Fact]:
    """``Unsqueeze``."""
    data, axes = at.inputs[0], _axes(at)
    if data.shape is None or axes is None:
        return [Fact(data.dtype)]
    rank = len(data.shape) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(data.shape)
    if len(new) != len(axes):  # one named twice
        return [Fact(data.dtype)]
    return [Fact(data.dtype, tuple(1 if axis in new else next(rest) for axis in range(rank)))]


def flatten(at: Site) -> list[Fact]:
    """``Flatten`` to two dimensions."""
    data = at.inputs[0]
    if data.shape is None:
        return [Fact(data.dtype, (None, None))]
    axis = int_attribute(at.node, "axis", 1)
    axis = axis + len(data.shape) if axis < 0 else axis
    parts = (data.shape[:axis], data.shape[axis:])
    return [Fact(data.dtype, tuple(map(algebra.product_of, parts)))]


def expand(at: Site) -> list[Fact]:
    """``Expand``: two-way broadcast with the target."""
    data, target = at.inputs[0], at.inputs[1]
    if target.content is None:
        rank = target.shape[0] if target.shape is not None and len(target.shape) == 1 else None
        if data.shape is None or not isinstance(rank, int):
            return [Fact(data.dtype)]
        return [Fact(data.dtype, (None,) * max(rank, len(data.shape)))]
    return [Fact(data.dtype, broadcast(data.shape, tuple(map(_size_or_none, target.content))))]


def tile(at: Site) -> list[Fact]:
    """``Tile``."""
    data, repeats = at.inputs[0], at.inputs[1].content
    if data.shape is None or repeats is None:
        return [Fact(data.dtype, None if data.shape is None else (None,) * len(data.shape))]
    pairs = zip(data.shape, repeats, strict=True)
    return [Fact(data.dtype, tuple(algebra.product_of(pair) for pair in pairs))]


def concat(at: Site) -> list[Fact]:
    """``Concat``: the other axes are equal, which tells names apart that are not."""
    shapes = [fact.shape for fact in at.inputs if fact.shape is not None]
    dtype = at.inputs[0].dtype
    if not shapes:
        return [Fact(dtype)]
    axis = int_attribute(at.node, "axis", 0) % max(len(shapes[0]), 1)
    dims: list[Dim | None] = list(shapes[0])
    for shape in shapes[1:]:
        for place, (ours, theirs) in enumerate(zip(dims, shape, strict=True)):
            if place == axis:
                continue
            at.facts.equate(ours, theirs)
            dims[place] = ours if isinstance(ours, int) or theirs is None else theirs
            dims[place] = ours if isinstance(ours, str) and isinstance(theirs, str) else dims[place]
    complete = len(shapes) == len(at.inputs)
    total: Dim | None = 0
    for shape in shapes:
        size = shape[axis]
        total = None if size is None or total is None else algebra.add(total, size)
    dims[axis] = total if complete else None
    return [Fact(dtype, tuple(dims))]


def split(at: Site) -> list[Fact]:
    """``Split`` into given sizes or equal parts, the last of which may be smaller."""
    data, count = at.inputs[0], len(at.node.outputs)
    if data.shape is None:
        return [Fact(data.dtype)] * count
    axis = int_attribute(at.node, "axis", 0) % max(len(data.shape), 1)
    sizes = at.inputs[1].content if len(at.inputs) > 1 and at.node.inputs[1] is not None else None
    if sizes is None and (len(at.inputs) < 2 or at.node.inputs[1] is None):
        sizes = _equal_parts(data.shape[axis], count)
    sizes = sizes if sizes is not None and len(sizes) == count else (None,) * count
    before, after = data.shape[:axis], data.shape[axis + 1 :]
    return [Fact(data.dtype, (*before, size, *after)) for size in sizes]


def _equal_parts(whole: Dim | None, count: int) -> Shape:
    if isinstance(whole, int):
        part = -(-whole // count)
        return tuple(max(0, min(part, whole - part * index)) for index in range(count))
    part_or_none = None if whole is None else algebra.exact_quotient(whole, count)
    return (part_or_none,) * count


def cut(at: Site) -> list[Fact]:
    """``Slice``."""
    data = at.inputs[0]
    if data.shape is None:
        return [Fact(data.dtype)]
    starts, ends = at.inputs[1].content, at.inputs[2].content
    count = len(starts) if starts is not None else None
    axes, steps = _optional(at, 3), _optional(at, 4)
    if axes == ():
        axes = tuple(range(count)) if count is not None else None
    if starts is None or ends is None or axes is None or steps is None:
        return [Fact(data.dtype, _unknown_along(data.shape, axes))]
    dims = list(data.shape)
    for place, axis in enumerate(axes):
        step = steps[place] if steps else 1
        dims[axis] = _sliced(dims[axis], starts[place], ends[place], step)
    return [Fact(data.dtype, tuple(dims))]


def _optional(at: Site, place: int) -> tuple[int, ...] | None:
    """The integers of an optional input, () when it is absent, None when they are unknown."""
    absent = len(at.inputs) <= place or at.node.inputs[place] is None
    return () if absent else at.inputs[place].ints()


def _unknown_along(shape: Shape, axes: tuple[int, ...] | None) -> Shape:
    if axes is None:
        return (None,) * len(shape)
    gone = {axis % len(shape) for axis in axes}
    return tuple(None if axis in gone else dim for axis, dim in enumerate(shape))


def _sliced(size: Dim | None, start: Dim | None, end: Dim | None, step: int) -> Dim | None:
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(size)[slice(start, None if step < 0 and end < -size else end, step)])
    if size is None or start is None or end is None or step != 1:
        return None
    first, last = _place(size, start), _place(size, end)
    if first is None or last is None:
        return None
    length = algebra.subtract(last, first)
    return length if length is not None and algebra.lowest(length) >= 0 else None


def _place(size: Dim, index: Dim) -> Dim | None:
    """Where an index lies once negative ones are counted from the end and all are clamped."""
    if algebra.lowest(index) < 0:  # a size that is negated may be 0, which counts from the start
        moved = algebra.add(size, index) if algebra.highest(index) < 0 else None
        return moved if moved is not None and algebra.lowest(moved) >= 0 else None
    return size if isinstance(index, int) and index >= 2**31 - 1 else algebra.smaller(size, index)


def pad(at: Site) -> list[Fact]:
    """``Pad`` by constants on all axes."""
    data = at.inputs[0]
    pads = at.inputs[1].ints() if len(at.inputs) > 1 else None
    rank = None if data.shape is None else len(data.shape)
    axes = _optional(at, 3)
    if data.shape is None or rank is None or pads is None or axes is None:
        return [Fact(data.dtype, None if rank is None else (None,) * rank)]
    axes = axes or tuple(range(rank))
    dims = list(data.shape)
    for place, axis in enumerate(axes):
        size = dims[axis]
        grown = pads[place] + pads[place + len(axes)]
        dims[axis] = None if size is None else algebra.add(size, grown)
    return [Fact(data.dtype, tuple(None if d is None else _size_or_none(d) for d in dims))]
