"""What the analysis knows of a value, and where it keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import onnx_ir as ir

from ...graph.tensors import Dim
from . import algebra

LONGEST_CONTENT = 64
"""Tensors of up to this many elements are followed by content: shapes are short."""

Shape = tuple[Dim | None, ...]


class Fact(NamedTuple):
    """One value.

    Attributes:
        dtype: element type, None when unknown.
        shape: one size an axis, None in the place of an unknown one; None when the rank is unknown.
        content: elements of a scalar or vector of integers or booleans, each a size in normal form,
            which here may be negative, or None; None when nothing is known.
    """

    dtype: ir.DataType | None = None
    shape: Shape | None = None
    content: tuple[Dim | None, ...] | None = None

    def ints(self) -> tuple[int, ...] | None:
        """The content when every element is a number."""
        found = tuple(item for item in self.content or () if isinstance(item, int))
        return found if self.content is not None and len(found) == len(self.content) else None


UNKNOWN = Fact()


class Facts:
    """The facts of one graph.

    Attributes:
        opset: of the standard domain, which decides the meaning of a few operators.
        names: atom of a size -> the size it was found to equal.
    """

    def __init__(self, opset: int, names: Mapping[str, Dim] | None = None) -> None:
        self.opset = opset
        self.names: dict[str, Dim] = dict(names or {})
        self._facts: dict[ir.Value, Fact] = {}

    def __getitem__(self, value: ir.Value | None) -> Fact:
        """The fact of a value; `UNKNOWN` for an absent input."""
        if value is None:
            return UNKNOWN
        fact = self._facts.get(value)
        if fact is None:  # neither an input nor made by a node seen so far
            fact = self._facts[value] = _constant(value) or self.declared(value)
        return fact

    def __setitem__(self, value: ir.Value, fact: Fact) -> None:
        self._facts[value] = fact

    def declared(self, value: ir.Value) -> Fact:
        """What the model file says; sizes without a name get one of their own."""
        if value.shape is None:
            return Fact(value.dtype, None)
        return Fact(value.dtype, self.named(value, declared_dims(value)))

    def named(self, value: ir.Value, dims: Shape) -> Shape:
        """The dims with a name for each unknown one and equal names made one."""
        return tuple(
            _own_name(value, axis) if dim is None else algebra.renamed(dim, self.names)
            for axis, dim in enumerate(dims)
        )

    def equate(self, left: Dim | None, right: Dim | None) -> None:
        """Learn that two sizes are equal, because the operator would fail otherwise."""
        if not isinstance(left, str) or not isinstance(right, str) or left == right:
            return
        left, right = (algebra.renamed(dim, self.names) for dim in (left, right))
        if algebra.is_guess(left) or algebra.is_guess(right):
            guess, size = (left, right) if algebra.is_guess(left) else (right, left)
            self.names[str(guess)] = size
            return
        pair = algebra.equal_names(left, right)
        if pair is not None:
            self.names[pair[1]] = pair[0]

    def settle(self) -> dict[str, Dim]:
        """Every atom that was found equal to another size, and that size."""
        settled: dict[str, Dim] = {}
        for name, size in reversed(self.names.items()):
            settled[name] = algebra.renamed(size, settled)
        return settled


class Site(NamedTuple):
    """Where a rule is applied.

    Attributes:
        node: of the standard domain.
        inputs: facts of its inputs.
        facts: of the graph.
    """

    node: ir.Node
    inputs: list[Fact]
    facts: Facts


def declared_dims(value: ir.Value) -> Shape:
    """The dims of a value of known rank as sizes, None where nothing is said."""
    return tuple(
        dim if isinstance(dim, int) else (None if dim.value is None else algebra.normal(dim.value))
        for dim in (() if value.shape is None else value.shape.dims)
    )


def _own_name(value: ir.Value, axis: int) -> str:
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', f'_{value.name}')}_{axis}"


def _constant(value: ir.Value) -> Fact | None:
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return None
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    content: tuple[Dim | None, ...] | None = None
    if len(shape) <= 1 and tensor.size <= LONGEST_CONTENT and tensor.dtype in INTEGERS:
        content = tuple(int(item) for item in tensor.numpy().reshape(-1))
    return Fact(tensor.dtype, shape, content)


INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL})
"""Types whose contents are followed; narrower ones would wrap around."""
