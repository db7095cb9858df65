"""What a formula sees of a node: the sizes of its operands and its attributes."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import onnx_ir as ir

from ...graph.tensors import Dim
from ...passes.shapes.facts import Facts
from .polynomial import Polynomial, product


class UncountableError(ValueError):
    """The shapes of a node are not known well enough for its formula; says which."""


class Site(NamedTuple):
    """A node and what is known of its operands.

    Attributes:
        node: any node of the main graph.
        facts: dtypes and shapes of the graph's values.
    """

    node: ir.Node
    facts: Facts

    def has(self, index: int) -> bool:
        """Whether the input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def input(self, index: int) -> ir.Value:
        """The input.

        Raises:
            UncountableError: when it is absent.
        """
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            raise UncountableError(f"it has no input {index}")
        return value

    def dims(self, index: int) -> tuple[Dim, ...]:
        """The dims of an input."""
        return self.dims_of(self.input(index))

    def dims_of(self, value: ir.Value) -> tuple[Dim, ...]:
        """The dims of a value.

        Raises:
            UncountableError: when its rank or a size is not known.
        """
        shape = self.facts[value].shape
        if shape is None:
            raise UncountableError(f"the shape of {value.name!r} is not known")
        known = tuple(dim for dim in shape if dim is not None)
        if len(known) != len(shape):
            raise UncountableError(f"a size of {value.name!r} is not known")
        return known

    def size(self, index: int, axis: int) -> Polynomial:
        """A size of an input."""
        dims = self.dims(index)
        if not -len(dims) <= axis < len(dims):
            raise UncountableError(f"input {index} has {len(dims)} axes")
        return Polynomial.of(dims[axis])

    def number(self, index: int, axis: int) -> int:
        """A size of an input that must not be dynamic."""
        dims = self.dims(index)
        found = dims[axis] if -len(dims) <= axis < len(dims) else None
        if not isinstance(found, int):
            raise UncountableError(f"axis {axis} of input {index} is not fixed")
        return found

    def elements(self, index: int) -> Polynomial:
        """The elements of an input."""
        return product(self.dims(index))

    @property
    def out(self) -> Polynomial:
        """The elements of the first output."""
        return product(self.dims_of(self.node.outputs[0]))

    def bytes_of(self, value: ir.Value) -> Polynomial:
        """The bytes of a value; types of less than a byte are packed.

        Raises:
            UncountableError: when its shape or its type is not known.
        """
        dtype = self.facts[value].dtype or value.dtype
        if dtype is None or dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise UncountableError(f"the type of {value.name!r} is not known")
        return product(self.dims_of(value)) * Fraction(dtype.itemsize)

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.as_int()

    def ints_attribute(self, name: str) -> tuple[int, ...]:
        """An attribute of integers, () when it is absent."""
        found = self.node.attributes.get(name)
        return () if found is None else tuple(found.as_ints())

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.as_float()

    def text_attribute(self, name: str, default: str) -> str:
        """A text attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found.as_string()
