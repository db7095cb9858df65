"""Recognise GELU spelled out in primitive operators, exact and tanh-approximated.

    x / 2 * (1 + erf(x / sqrt 2))                               ->  Gelu(x)
    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))     ->  Gelu(x, approximate="tanh")

The two are different functions (they differ by up to 5e-4) and never turn into one another. The
spellings vary in the order of the factors, where the half is, and in how the cube is written, so
nothing is matched by shape: the argument of Erf or Tanh is read as a polynomial in x, and what is
done to its result as a product with x.

Source: https://onnx.ai/onnx/operators/onnx__Gelu.html, arXiv 1606.08415
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ...graph.history import Refusal
from ..base import Pass, PassResult, result
from ..constants import (
    insert_before,
    producer,
    remove_dead,
    replace_value,
    scalar_of,
    sole_consumer,
)

_TANH_SCALE = math.sqrt(2.0 / math.pi)
_ARGUMENTS = {
    "Erf": {1: math.sqrt(0.5)},
    "Tanh": {1: _TANH_SCALE, 3: _TANH_SCALE * 0.044715},
}
"""Operator -> its argument: power of x -> coefficient."""

_TOLERANCE = 1e-3
"""Relative; admits constants that went through float16 and no other function's constants."""

_DEPTH = 8
"""Operators followed inwards; the deepest known spelling of the cube takes six."""

_Polynomial = dict[int, float]


@dataclass(frozen=True)
class _Gate:
    """``x * factor * (slope * f + offset)`` for f the result of Erf or Tanh.

    Attributes:
        x: what is multiplied.
        slope: coefficient of f, constant factors before and after x included.
        offset: likewise without f.
        output: the product.
    """

    x: ir.Value
    slope: float
    offset: float
    output: ir.Value


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Replace spelled-out GELUs by the operator of opset 20.

    ``x * (1 + erf(...))`` and the same with tanh count as found; one that is not replaced is
    refused with the first difference met.
    """

    name = "fuse-gelu"
    min_opset = 20

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            if node.graph is None or node.domain or node.op_type not in _ARGUMENTS:
                continue
            reason = _fuse(node, tuple(_gates(node.outputs[0])))
            rewrites += reason is None
            if reason:
                refusals.append(Refusal(self.name, node.name or "?", reason))
        return result(model, rewrites, tuple(refusals))


def _fuse(node: ir.Node, gates: tuple[_Gate, ...]) -> str | None:
    """Replace the first gate that is a GELU; else the reason, empty where nothing is multiplied."""
    reason = ""
    for gate in gates:
        argument = _polynomial(node.inputs[0], gate.x, _DEPTH)
        if argument is None:
            continue
        reason = _difference(node.op_type, argument, gate) or ""
        if not reason:
            _replace(node, gate)
            return None
    if gates and not reason:
        return f"the argument of {node.op_type.lower()} is no polynomial in what it multiplies"
    return reason


def _gates(bounded: ir.Value) -> Iterator[_Gate]:
    """Every product with an x that the result of Erf or Tanh may be the gate of."""
    slope, offset, value = 1.0, 0.0, bounded
    while True:
        step = _affine_step(value)
        if step is None:
            break
        factor, shift, value = step
        slope, offset = slope * factor, offset * factor + shift
    product = sole_consumer(value, "Mul")
    if product is None or offset == 0:
        return
    other = product.inputs[1] if product.inputs[0] is value else product.inputs[0]
    output = product.outputs[0]
    while other is not None and other is not value:
        tail, end = (1.0, output) if _is_half(slope) else _constant_tail(output)
        yield _Gate(other, slope * tail, offset * tail, end)
        factor, other = _inner_factor(other)
        slope, offset = slope * factor, offset * factor


def _is_half(number: float) -> bool:
    return math.isclose(number, 0.5, rel_tol=_TOLERANCE)


def _affine_step(value: ir.Value) -> tuple[float, float, ir.Value] | None:
    """Factor, shift and result of the only reader when it adds or multiplies a constant."""
    node = sole_consumer(value, "Add", "Mul", "Div")
    if node is None:
        return None
    first = node.inputs[0] is value
    constant = scalar_of(node.inputs[1] if first else node.inputs[0])
    if constant is None or (node.op_type == "Div" and (not first or constant == 0)):
        return None
    if node.op_type == "Add":
        return 1.0, constant, node.outputs[0]
    return (constant if node.op_type == "Mul" else 1 / constant), 0.0, node.outputs[0]


def _constant_tail(value: ir.Value) -> tuple[float, ir.Value]:
    step = _affine_step(value)
    return (1.0, value) if step is None or step[1] != 0 else (step[0], step[2])


def _inner_factor(value: ir.Value) -> tuple[float, ir.Value | None]:
    """C and x of ``c * x`` or ``x / (1/c)``."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return 1.0, None
    left, right = node.inputs[0], node.inputs[1]
    constant = scalar_of(right)
    if constant is not None and (node.op_type == "Mul" or constant != 0):
        return (constant if node.op_type == "Mul" else 1 / constant), left
    constant = scalar_of(left) if node.op_type == "Mul" else None
    return (1.0, None) if constant is None else (constant, right)


def _difference(op_type: str, argument: _Polynomial, gate: _Gate) -> str | None:
    """Why a gate is none of GELU, or None."""
    wanted, name = _ARGUMENTS[op_type], op_type.lower()
    if argument.keys() != wanted.keys() or not all(
        math.isclose(argument[power], wanted[power], rel_tol=_TOLERANCE) for power in wanted
    ):
        return f"the argument of {name} is {_spelled(argument)}, not {_spelled(wanted)}"
    if not _is_half(gate.slope) or not _is_half(gate.offset):
        return (
            f"x is multiplied by {gate.slope:.6g} {name} + {gate.offset:.6g}, not 0.5 {name} + 0.5"
        )
    return None


def _spelled(polynomial: _Polynomial) -> str:
    terms = (f"{number:.6g} x^{power}" for power, number in sorted(polynomial.items()))
    return " + ".join(terms) or "0"


def _polynomial(value: ir.Value | None, x: ir.Value, depth: int) -> _Polynomial | None:
    """The value as a polynomial in x of degree 3 or less, or None."""
    if value is x:
        return {1: 1.0}
    constant = scalar_of(value)
    if constant is not None:
        return {0: constant}
    node = producer(value, "Mul", "Add", "Div", "Pow")
    if node is None or depth == 0:
        return None
    left = _polynomial(node.inputs[0], x, depth - 1)
    right = _polynomial(node.inputs[1], x, depth - 1)
    if left is None or right is None:
        return None
    if node.op_type == "Add":
        return {key: left.get(key, 0) + right.get(key, 0) for key in left | right}
    if node.op_type == "Mul":
        return _product(left, right)
    number = right.get(0, 0.0)
    if right.keys() != {0} or number == 0:
        return None
    if node.op_type == "Div":
        return {power: factor / number for power, factor in left.items()}
    if number not in (2, 3):
        return None
    square = _product(left, left)
    return square if number == 2 or square is None else _product(square, left)


def _product(left: _Polynomial, right: _Polynomial) -> _Polynomial | None:
    if max(left) + max(right) > 3:
        return None
    product: _Polynomial = {}
    for power, factor in left.items():
        for other, by in right.items():
            product[power + other] = product.get(power + other, 0.0) + factor * by
    return product


def _replace(node: ir.Node, gate: _Gate) -> None:
    last = gate.output.producer()
    assert last is not None
    tape = ir.tape.Tape()
    attributes = {"approximate": "tanh"} if node.op_type == "Tanh" else {}
    new = tape.op("Gelu", [gate.x], attributes)
    insert_before(last, tape.nodes)
    replace_value(gate.output, new)
    remove_dead(last)
