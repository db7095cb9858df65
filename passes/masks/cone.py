"""The subgraph that computes a mask, cut off from the network.

A mask is a function of a padding input and of sizes. `cone_of` walks up from it and stops at
graph inputs and wherever a size is read, so nothing of the network is needed to run it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..constants import array_of, int_attribute
from .meaning import Miss

_ALLOWED = frozenset(
    {
        "Abs", "Add", "And", "Cast", "CastLike", "Clip", "Concat", "Constant", "ConstantOfShape",
        "Div", "Equal", "Expand", "Flatten", "Gather", "GatherND", "Greater", "GreaterOrEqual",
        "Identity", "IsNaN", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or",
        "Range", "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Tile", "Transpose", "Trilu",
        "Unsqueeze", "Where", "Xor",
    }
)  # fmt: skip
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_TO_THE_END = 2**31 - 1  # Slice ends from here on mean "all"; no sequence is that long
_TABLE = 64
_MOVABLE = (_COMPARISONS - {"Equal"}) | {"Add", "Sub"}
_NEIGHBOURS = 8  # a window as "<= 4095" here and "< 4096" there

Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class Cone:
    """What a value is computed with.

    Attributes:
        root: the value.
        nodes: in topological order.
        reads: graph inputs whose contents count.
        sizes: values that hold sizes, and the dims they hold.
        replaced: constants that stand for others.
    """

    root: ir.Value
    nodes: tuple[ir.Node, ...]
    reads: tuple[ir.Value, ...]
    sizes: Mapping[ir.Value, Dims]
    replaced: Mapping[ir.Value, ir.TensorProtocol] = field(default_factory=dict)

    @property
    def symbols(self) -> frozenset[str]:
        """Names in the dims that are read."""
        dims = (dim for held in self.sizes.values() for dim in held)
        return frozenset().union(*map(symbols_of, dims))

    def numbers(self) -> Iterator[float]:
        """Constants that could be a size: integers, and floats that something is compared with."""
        for node in self.nodes:
            for _, array in self._size_like(node):
                yield from (abs(float(x)) for x in array.flat if abs(float(x)) < _TO_THE_END)
            if node.op_type == "ConstantOfShape" and "value" in node.attributes:
                yield abs(float(node.attributes["value"].as_tensor().numpy().item()))

    def table_dims(self) -> Iterator[int]:
        """Dims of constants with many elements, such as a causal table."""
        for node in self.nodes:
            for array in map(array_of, node.inputs):
                if array is not None and array.size > _TABLE:
                    yield from (dim for dim in array.shape if dim > 1)

    def large_limits(self, least: int, most: int) -> frozenset[int]:
        """Constants beyond `least` that are added to a position or compared with one, if all are.

        Raises:
            Miss: when they are beyond `most` and used in another way, or far apart.
        """
        large = frozenset(math.ceil(x) for x in self.numbers() if x > least)
        if not large:
            return large
        movable = {
            round(abs(float(array.item())))
            for node in self.nodes
            for _, array in self._size_like(node)
            if node.op_type in _MOVABLE and array.size == 1
        }
        if large <= movable and max(large) - min(large) <= _NEIGHBOURS:
            return large
        if max(large) <= most:
            return frozenset()
        held = ", ".join(map(str, sorted(large)))
        raise Miss(f"the mask holds the constants {held}; sizes are tried to {most}")

    def shifted(self, least: int, by: int) -> Cone:
        """The cone with every constant beyond `least` nearer to 0 by so much."""
        replaced: dict[ir.Value, ir.TensorProtocol] = {}
        for node in self.nodes:
            for value, array in self._size_like(node):
                if array.size == 1 and least < abs(float(array.item())) < _TO_THE_END:
                    smaller = array - np.sign(array) * by
                    replaced[value] = ir.tensor(smaller.astype(array.dtype), name=value.name)
        return replace(self, replaced=replaced)

    def _size_like(self, node: ir.Node) -> Iterator[tuple[ir.Value, Array]]:
        for value in node.inputs:
            if value is None:
                continue
            tensor = self.replaced.get(value)
            array = array_of(value) if tensor is None else tensor.numpy()
            if array is None or array.size > _TABLE:
                continue
            if array.dtype.kind in "iu" or node.op_type in _COMPARISONS:
                yield value, array


def cone_of(root: ir.Value) -> Cone:
    """Cut a mask off the network.

    Raises:
        Miss: when it is computed with operators that masks are not made of, or reads sizes that
            are unknown.
    """
    order: dict[ir.Node, None] = {}
    reads: dict[ir.Value, None] = {}
    sizes: dict[ir.Value, Dims] = {}
    entered: set[ir.Node] = set()
    foreign: set[str] = set()
    pending: list[ir.Value | ir.Node] = [root]
    while pending:
        item = pending.pop()
        if isinstance(item, ir.Node):
            order[item] = None  # everything above it is in order by now
            continue
        node = item.producer()
        if node is None:
            if item.is_graph_input():
                reads[item] = None
            continue
        if node in entered:
            continue
        entered.add(node)
        if node.domain or node.op_type not in _ALLOWED:
            foreign.add(node.op_type)
            continue
        dims = _dims_read(node)
        if dims is not None:
            sizes[node.outputs[0]] = dims
            continue
        pending.append(node)
        pending.extend(value for value in node.inputs if value is not None)
    if foreign:
        raise Miss(f"the mask is computed with {', '.join(sorted(foreign))}")
    return Cone(root, tuple(order), tuple(reads), sizes)


def dim_name(value: ir.Value, axis: int) -> int | str:
    """A dim of a graph input: its size, its name, or a name of our own."""
    assert value.shape is not None
    dim = value.shape[axis]
    if isinstance(dim, int):
        return dim
    return dim.value if isinstance(dim.value, str) else f"{value.name}:{axis}"


def _dims_read(node: ir.Node) -> Dims | None:
    """What a Shape node answers, when that is known from the names of dims."""
    value = node.inputs[0] if node.op_type == "Shape" else None
    if value is None or value.shape is None:
        return None
    rank = len(value.shape)
    start, end, _ = slice(
        int_attribute(node, "start", 0), int_attribute(node, "end", rank)
    ).indices(rank)
    if value.is_graph_input():
        return tuple(dim_name(value, axis) for axis in range(start, end))
    assert isinstance(node.graph, ir.Graph)
    known = input_symbols(node.graph)
    dims: list[int | str] = []
    for dim in list(value.shape)[start:end]:
        name = dim if isinstance(dim, int) else dim.value
        if name is None or not symbols_of(name) <= known:
            return None
        dims.append(name)
    return tuple(dims)


def input_symbols(graph: ir.Graph) -> frozenset[str]:
    """Names of the sizes that the inputs of a graph have."""
    names = (
        dim_name(value, axis) for value in graph.inputs for axis in range(len(value.shape or ()))
    )
    return frozenset(name for name in names if isinstance(name, str))


def symbols_of(dim: int | str) -> frozenset[str]:
    """Names in a dim such as ``past + sequence``; a name that is no formula is one symbol."""
    if isinstance(dim, int):
        return frozenset()
    try:
        return ir.SymbolicDim(dim).free_symbols()
    except ValueError:
        return frozenset({dim})


def size_of(dim: int | str, numbers: Mapping[str, int]) -> int:
    """A dim as a number.

    Raises:
        Miss: when the formula has no integer value.
    """
    if isinstance(dim, int) or dim in numbers:
        return dim if isinstance(dim, int) else numbers[dim]
    size = ir.SymbolicDim(dim).evaluate(dict(numbers))
    if not isinstance(size, int):
        raise Miss(f"the size {dim!r} is unknown")
    return size
