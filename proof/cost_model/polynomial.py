"""Polynomials in the sizes of a graph, exact: what a node costs for every batch and sequence.

A term is a product of sizes and a rational factor. A size is a name, ``batch``, or a call that
does not simplify, ``Min(512, sequence)``, as `passes.shapes.algebra` writes it.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Self

from ...errors import GraphError
from ...graph.tensors import Dim
from ...passes.shapes import algebra

Monomial = tuple[str, ...]
Number = int | Fraction


@dataclass(frozen=True)
class Polynomial:
    """A sum of products of sizes; equal polynomials are equal values.

    Attributes:
        terms: (sizes in order, factor that is not 0), highest degree first.
    """

    terms: tuple[tuple[Monomial, Fraction], ...] = ()

    @classmethod
    def of(cls, value: Dim | Fraction) -> Polynomial:
        """A number, or a size in its normal form, such as ``past + sequence``."""
        if not isinstance(value, str):
            return cls._sorted({(): Fraction(value)})
        return cls._sorted({atoms: Fraction(factor) for atoms, factor in algebra.terms_of(value)})

    @classmethod
    def _sorted(cls, terms: Mapping[Monomial, Fraction]) -> Self:
        kept = (item for item in terms.items() if item[1])
        return cls(tuple(sorted(kept, key=lambda item: (-len(item[0]), item[0]))))

    def __add__(self, other: Polynomial | Number) -> Polynomial:
        total = dict(self.terms)
        for atoms, factor in _polynomial(other).terms:
            total[atoms] = total.get(atoms, Fraction()) + factor
        return self._sorted(total)

    def __mul__(self, other: Polynomial | Number) -> Polynomial:
        product: dict[Monomial, Fraction] = {}
        for one, factor in self.terms:
            for two, by in _polynomial(other).terms:
                atoms = tuple(sorted((*one, *two)))
                product[atoms] = product.get(atoms, Fraction()) + factor * by
        return self._sorted(product)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Polynomial:
        return self * -1

    def __sub__(self, other: Polynomial | Number) -> Polynomial:
        return self + -_polynomial(other)

    def __bool__(self) -> bool:
        return bool(self.terms)

    @property
    def sizes(self) -> frozenset[str]:
        """What has to be known to evaluate it, calls included as they are written."""
        return frozenset(atom for atoms, _ in self.terms for atom in atoms)

    def at(self, sizes: Mapping[str, int]) -> Fraction:
        """The value.

        Args:
            sizes: of every dynamic axis, by name.

        Raises:
            GraphError: when it depends on a size that is not given.
        """
        total = Fraction()
        for atoms, factor in self.terms:
            total += factor * math.prod(evaluate(atom, sizes) for atom in atoms)
        return total

    def __str__(self) -> str:
        text = ""
        for atoms, factor in self.terms:
            size = abs(factor)
            name = "*".join((*((str(size),) if size != 1 or not atoms else ()), *atoms))
            text += (" - " if factor < 0 else " + ") + name if text else "-" * (factor < 0) + name
        return text or "0"


ZERO = Polynomial()


def total(parts: list[Polynomial] | tuple[Polynomial, ...]) -> Polynomial:
    """The sum of all."""
    return sum(parts, ZERO)


def product(dims: tuple[Dim, ...]) -> Polynomial:
    """The number of elements of a tensor of these dims."""
    return reduce(lambda done, dim: done * Polynomial.of(dim), dims, Polynomial.of(1))


def evaluate(size: str, sizes: Mapping[str, int]) -> int:
    """The value of a name or a call.

    Raises:
        GraphError: when it depends on a size that is not given, or is no arithmetic of sizes.
    """
    if size in sizes:
        return sizes[size]
    if size.isidentifier():
        raise GraphError(
            f"size {size!r} is not known: it depends on the data, or is an axis that was not "
            f"given; known are {', '.join(sorted(sizes)) or 'none'}"
        )
    return _value(_tree(size), sizes)


@lru_cache(maxsize=4096)
def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise GraphError(f"size {text!r}: expected arithmetic of named sizes") from error


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return evaluate(node.id, sizes)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, sizes)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left, sizes), _value(node.right, sizes)
        if right or not isinstance(node.op, ast.Div | ast.FloorDiv):
            return _OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        return _CALLS[node.func.id]([_value(argument, sizes) for argument in node.args])
    raise GraphError(f"size {ast.unparse(node)!r}: expected arithmetic of named sizes")


_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Div: lambda left, right: left // right,  # only inside floor()
}

_CALLS: Mapping[str, Callable[[list[int]], int]] = {
    "Min": min,
    "Max": max,
    "floor": lambda values: values[0],
    "Broadcast": lambda values: max(values) if min(values) else 0,
}


def _polynomial(value: Polynomial | Number) -> Polynomial:
    return value if isinstance(value, Polynomial) else Polynomial.of(value)
