"""Arithmetic of sizes, in a normal form in which equal sizes are equal values.

A size is an int, or the text of a polynomial with integer coefficients, such as ``past + sequence``
or ``4*batch``. Its atoms are names of dynamic axes and calls (``floor(s/2)``, ``Min(512, s)``) that
do not simplify. Every atom is a size itself, hence at least 0: that is all the comparisons assume,
because a decoder's cache starts with length 0.

The text is what `onnx_ir` and the dynamo exporter write into a dimension, so it can be read back.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from functools import lru_cache

from ...graph.tensors import Dim

_Monomial = tuple[str, ...]
_Polynomial = dict[_Monomial, int]

_TERMS, _DEGREE, _BITS = 32, 8, 62
"""Larger results are unknown: repeated squaring in a hostile graph must not fill the memory."""

_LONGEST_TEXT = 256


class _NotASizeError(ValueError):
    """The text is a plain name, though it may look like an expression."""


@lru_cache(maxsize=8192)
def normal(text: str) -> Dim:
    """The normal form of a dimension's text; a text that is no expression is one name."""
    return _written(_read(text)) or text


@lru_cache(maxsize=8192)
def add(left: Dim, right: Dim) -> Dim | None:
    """The sum, None when it grows too large."""
    if isinstance(left, int) and isinstance(right, int):
        return left + right
    return _written(_sum(_polynomial(left), _polynomial(right)))


def subtract(left: Dim, right: Dim) -> Dim | None:
    """The difference, which may be negative."""
    negative = multiply(right, -1)
    return None if negative is None else add(left, negative)


@lru_cache(maxsize=8192)
def multiply(left: Dim, right: Dim) -> Dim | None:
    """The product, None when it grows too large."""
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    return _written(_product(_polynomial(left), _polynomial(right)))


def product_of(dims: tuple[Dim | None, ...]) -> Dim | None:
    """The product of all, None when one is unknown."""
    total: Dim | None = 1
    for dim in dims:
        if dim is None or total is None:
            return None
        total = multiply(total, dim)
    return total


@lru_cache(maxsize=8192)
def divide(left: Dim, right: Dim) -> Dim | None:
    """``left // right`` of sizes; None when a sign is open or the divisor may be 0."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right if left >= 0 and right > 0 else None
    exact = exact_quotient(left, right)
    if exact is not None:
        return exact
    if not isinstance(right, int) or right < 1 or lowest(left) < 0:
        return None
    return _call("floor", f"({left})/{right}" if " " in str(left) else f"{left}/{right}")


def smaller(left: Dim, right: Dim) -> Dim | None:
    """The minimum; None when an operand may be negative."""
    return _ordered("Min", left, right)


def larger(left: Dim, right: Dim) -> Dim | None:
    """The maximum; None when an operand may be negative."""
    return _ordered("Max", left, right)


def broadcast(left: Dim | None, right: Dim | None) -> Dim | None:
    """The size two axes broadcast to; one of them is 1 or both are equal, or the model fails."""
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int):
            return one
        if isinstance(one, str) and isinstance(other, str) and _clamps(one, other):
            return other
    if left is None or right is None:
        return None
    return _call("Broadcast", ", ".join(sorted((str(left), str(right)))))


def is_guess(dim: Dim | None) -> bool:
    """Whether two unrelated sizes met in a broadcast, so that a declared name says more."""
    return isinstance(dim, str) and dim.startswith("Broadcast(")


def lowest(dim: Dim) -> float:
    """A lower bound, given that atoms are at least 0."""
    if isinstance(dim, int):
        return dim
    terms = _polynomial(dim)
    return -math.inf if any(f < 0 for t, f in terms.items() if t) else terms.get((), 0)


def highest(dim: Dim) -> float:
    """An upper bound, given that atoms are at least 0."""
    if isinstance(dim, int):
        return dim
    terms = _polynomial(dim)
    return math.inf if any(f > 0 for t, f in terms.items() if t) else terms.get((), 0)


def renamed(dim: Dim, names: Mapping[str, Dim]) -> Dim:
    """The size with atoms replaced by the sizes they are known to equal."""
    if isinstance(dim, int) or not names:
        return dim
    changed: _Polynomial = {}
    for term, factor in _polynomial(dim).items():
        part: _Polynomial = {(): factor}
        for atom in term:
            part = _product(part, _polynomial(names.get(atom, atom)))
        changed = _sum(changed, part)
    new = _written(changed)
    return dim if new is None else new


def equal_names(left: Dim, right: Dim) -> tuple[str, str] | None:
    """The two names that must be equal when the sizes are, if the difference is just theirs."""
    difference = subtract(left, right)
    if not isinstance(difference, str):
        return None
    terms = _polynomial(difference)
    if len(terms) != 2 or sorted(terms.values()) != [-1, 1] or any(len(t) != 1 for t in terms):
        return None
    first, second = sorted(term[0] for term in terms)
    return (first, second) if first.isidentifier() and second.isidentifier() else None


def terms_of(dim: Dim) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Atoms and factor of every summand, in the order of the text; the constant has no atoms."""
    return tuple(sorted(_polynomial(dim).items(), key=_order))


def _order(item: tuple[_Monomial, int]) -> tuple[int, _Monomial]:
    return -len(item[0]), item[0]


def _polynomial(dim: Dim) -> _Polynomial:
    if isinstance(dim, int):
        return {(): dim} if dim else {}
    return _read(dim)


@lru_cache(maxsize=8192)
def _read(text: str) -> _Polynomial:
    if text.isidentifier() or len(text) > _LONGEST_TEXT:
        return {(text,): 1}
    try:
        polynomial = _evaluated(ast.parse(text, mode="eval").body)
    except (_NotASizeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {(text,): 1}
    small = _written(polynomial) is not None
    return polynomial if small and any(polynomial) else {(text,): 1}


def _evaluated(node: ast.expr) -> _Polynomial:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return _polynomial(node.value)
    if isinstance(node, ast.Name):
        return {(node.id,): 1}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _product({(): -1}, _evaluated(node.operand))
    if isinstance(node, ast.Call):
        return {(ast.unparse(node),): 1}
    if not isinstance(node, ast.BinOp):
        raise _NotASizeError
    left, right = _evaluated(node.left), _evaluated(node.right)
    if isinstance(node.op, ast.Mult):
        return _product(left, right)
    if isinstance(node.op, ast.FloorDiv):
        return {
            (
                ast.unparse(
                    ast.parse(
                        f"floor(({ast.unparse(node.left)}) / ({ast.unparse(node.right)}))",
                        mode="eval",
                    )
                ),
            ): 1
        }
    if isinstance(node.op, ast.Add | ast.Sub):
        return _sum(left, right if isinstance(node.op, ast.Add) else _product({(): -1}, right))
    raise _NotASizeError


def _sum(left: _Polynomial, right: _Polynomial) -> _Polynomial:
    total = dict(left)
    for term, factor in right.items():
        total[term] = total.get(term, 0) + factor
    return total


def _product(left: _Polynomial, right: _Polynomial) -> _Polynomial:
    product: _Polynomial = {}
    for one, factor in left.items():
        for other, by in right.items():
            term = tuple(sorted((*one, *other)))
            product[term] = product.get(term, 0) + factor * by
    return product


def _written(polynomial: _Polynomial) -> Dim | None:
    terms = [item for item in sorted(polynomial.items(), key=_order) if item[1]]
    if len(terms) > _TERMS or any(len(t) > _DEGREE or f.bit_length() > _BITS for t, f in terms):
        return None
    if not terms:
        return 0
    if len(terms) == 1 and not terms[0][0]:
        return terms[0][1]
    text = ""
    for atoms, factor in terms:
        size = abs(factor)
        name = "*".join(((str(size),) if size != 1 or not atoms else ()) + atoms)
        sign = "-" if factor < 0 else "+"
        text = f"{text} {sign} {name}" if text else (f"-{name}" if factor < 0 else name)
    return text


def exact_quotient(left: Dim, right: Dim) -> Dim | None:
    """The quotient by a single product of factor and atoms, when nothing is left over.

    The sizes of the divisor cancel only where they are not 0; a model that divides by one fails
    there anyway.
    """
    if left == right:
        return 1
    divisor = list(_polynomial(right).items())
    if len(divisor) != 1:
        return None
    atoms, by = divisor[0]
    quotient: _Polynomial = {}
    for term, factor in _polynomial(left).items():
        rest = list(term)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if factor % by:
            return None
        quotient[tuple(rest)] = factor // by
    return _written(quotient)


def _ordered(name: str, left: Dim, right: Dim) -> Dim | None:
    difference = subtract(left, right)
    if difference is None:
        return None
    if lowest(difference) >= 0:
        return right if name == "Min" else left
    if highest(difference) <= 0:
        return left if name == "Min" else right
    if lowest(left) < 0 or lowest(right) < 0:
        return None
    return _call(name, ", ".join(sorted((str(left), str(right)), key=lambda t: (len(t), t))))


def _call(name: str, arguments: str) -> Dim:
    return normal(f"{name}({arguments})")


def _clamps(one: str, other: str) -> bool:
    """Whether one is ``Min(constant, other)``, which is 1 only where the other is."""
    if not one.startswith("Min("):
        return False
    arguments = one[4:-1].split(", ")
    return len(arguments) == 2 and other in arguments and any(a.isdigit() for a in arguments)
