"""What layer norm and RMS norm share when exporters spell them out in primitive operators.

    n / sqrt(mean(b^2) + epsilon), then optionally * gain

with n and b equal but for Casts that keep every value. The root is spelled ``Sqrt`` under a
``Div``, ``Reciprocal(Sqrt)``, ``Div(1, Sqrt)`` or ``Pow`` with exponent -0.5 under a ``Mul``.

Source: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..casts import unwidened
from ..constants import (
    initializer,
    insert_before,
    int_attribute,
    ints_attribute,
    ints_of,
    producer,
    remove_dead,
    replace_value,
    scalar_mismatch,
    scalar_of,
    sole_consumer,
    static_dim,
)


class Miss(Exception):  # noqa: N818  (control flow between a pass and this file)
    """Why a candidate is no norm."""


@dataclass(frozen=True, kw_only=True)
class Quotient:
    """``numerator / sqrt(mean(base^2) + epsilon)``.

    Attributes:
        numerator: what is divided.
        base: what is squared, Casts that only widen removed.
        epsilon: added to the mean square.
        output: the quotient.
    """

    numerator: ir.Value
    base: ir.Value
    epsilon: float
    output: ir.Value


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A whole norm, ready to be one operator.

    Attributes:
        source: [..., width], the operator's input.
        gain: [width], or None where nothing is multiplied.
        bias: [width], or None where nothing is added.
        epsilon: of the operator.
        output: [..., width], what the operator replaces.
    """

    source: ir.Value
    gain: ir.Value | None
    bias: ir.Value | None
    epsilon: float
    output: ir.Value


def quotient_of(node: ir.Node) -> Quotient | None:
    """The quotient a Mul or Div computes, or None where it divides by no root of a mean.

    Raises:
        Miss: when it does, but not by the root of a mean square over the last axis.
    """
    if node.domain or node.op_type not in ("Mul", "Div"):
        return None
    for numerator, radicand in _radicands(node):
        add = producer(unwidened(radicand), "Add")
        mean, epsilon = (None, None) if add is None else _mean_and_rest(add)
        if mean is None:
            continue
        base = _square_base(mean)
        reason = axis_mismatch(mean)
        if reason is not None:
            raise Miss(f"variance: {reason}")
        shift = scalar_of(epsilon)
        if shift is None:
            raise Miss("epsilon is not a scalar constant")
        if numerator.dtype == ir.DataType.DOUBLE:
            raise Miss("it computes in float64, the operator in float32")
        return Quotient(
            numerator=numerator, base=unwidened(base), epsilon=shift, output=node.outputs[0]
        )
    return None


def axis_mismatch(mean: ir.Node) -> str | None:
    """None when a ReduceMean is over the last axis and keeps it, else the reason."""
    if int_attribute(mean, "keepdims", 1) != 1:
        return "the mean drops its axis"
    data = mean.inputs[0]
    axes = ints_attribute(mean, "axes")  # an attribute before opset 18, an input since
    if len(mean.inputs) > 1 and mean.inputs[1] is not None:
        axes = ints_of(mean.inputs[1]) or ()
    rank = None if data is None or data.shape is None else len(data.shape)
    if axes != (-1,) and (rank is None or axes != (rank - 1,)):
        return f"the mean is over axes {axes}, not over the last one"
    return None


def complete(found: Quotient, source: ir.Value, *, biased: bool) -> Norm:
    """Follow a quotient to the gain and the bias that are applied to it alone.

    Args:
        found: the quotient.
        source: what is normalised, as the quotient's numerator reads it.
        biased: whether a bias may follow the gain.

    Raises:
        Miss: when the width of the source is unknown.
    """
    width = static_dim(source, -1)
    if width is None:
        raise Miss(f"the width of {source.name!r} {source.shape} is unknown")
    output = found.output
    narrow, cast = unwidened(source), sole_consumer(output, "Cast")
    if cast is not None and narrow.dtype == int_attribute(cast, "to", 0):
        source, output = narrow, cast.outputs[0]
    elif narrow.dtype == source.dtype:
        source = narrow
    gain, output = _vector(output, "Mul", width)
    bias = None
    if biased and gain is not None:
        bias, output = _vector(output, "Add", width)
    return Norm(source=source, gain=gain, bias=bias, epsilon=found.epsilon, output=output)


def replace(norm: Norm, op_type: str) -> None:
    """Put one operator in the place of a norm; a missing gain becomes ones, which both demand."""
    last = norm.output.producer()
    assert last is not None
    assert last.graph is not None
    gain = norm.gain or _ones(last.graph, norm.source)
    inputs = [norm.source, gain] if norm.bias is None else [norm.source, gain, norm.bias]
    tape = ir.tape.Tape()
    attributes = {"axis": -1, "epsilon": float(np.float32(norm.epsilon))}
    new = tape.op(op_type, inputs, attributes)
    insert_before(last, tape.nodes)
    replace_value(norm.output, new)
    remove_dead(last)


def _radicands(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Numerator and v of ``numerator / sqrt(v)``, for every order of the operands that has one."""
    left, right = node.inputs[0], node.inputs[1]
    orders = [(left, right)] if node.op_type == "Div" else [(left, right), (right, left)]
    power = 0.5 if node.op_type == "Div" else -0.5
    for numerator, factor in orders:
        radicand = None if factor is None else _radicand(factor, power)
        # One over the root is no norm yet, but a factor of one.
        if numerator is not None and radicand is not None and scalar_of(numerator) is None:
            yield numerator, radicand


def _radicand(value: ir.Value, power: float) -> ir.Value | None:
    """V when the value is ``v ** power``, for powers of 0.5 and -0.5."""
    node = producer(unwidened(value), "Sqrt", "Pow", "Reciprocal", "Div")
    if node is None:
        return None
    first = node.inputs[0]
    if node.op_type == "Pow":
        return first if scalar_of(node.inputs[1]) == power else None
    if node.op_type == "Sqrt":
        return first if power > 0 else None
    if power > 0:
        return None
    below = first if node.op_type == "Reciprocal" else node.inputs[1]
    if below is None or (node.op_type == "Div" and scalar_of(first) != 1.0):
        return None
    return _radicand(below, 0.5)


def _mean_and_rest(add: ir.Node) -> tuple[ir.Node | None, ir.Value | None]:
    for value, rest in ((0, 1), (1, 0)):
        operand = add.inputs[value]
        mean = None if operand is None else producer(unwidened(operand), "ReduceMean")
        if mean is not None:
            return mean, add.inputs[rest]
    return None, None


def _square_base(mean: ir.Node) -> ir.Value:
    square = producer(mean.inputs[0], "Pow", "Mul")
    if square is None or square.inputs[0] is None or square.inputs[1] is None:
        raise Miss(f"{mean.name!r} is the mean of something else than a square")
    left, right = square.inputs[0], square.inputs[1]
    if square.op_type == "Mul":
        if unwidened(left) is not unwidened(right):
            raise Miss(f"{square.name!r} multiplies two tensors, expected a square")
        return left
    reason = scalar_mismatch("exponent", right, 2.0)
    if reason is not None:
        raise Miss(reason)
    return left


def _vector(value: ir.Value, op_type: str, width: int) -> tuple[ir.Value | None, ir.Value]:
    """The [width] operand of the only reader of a value and what that computes, else nothing."""
    node = sole_consumer(value, op_type)
    if node is None or len(node.inputs) != 2:
        return None, value
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    fits = other is not None and other.shape is not None and list(other.shape) == [width]
    return (other, node.outputs[0]) if fits else (None, value)


def _ones(graph: ir.Graph, source: ir.Value) -> ir.Value:
    width = static_dim(source, -1)
    assert width is not None
    if source.dtype is None:
        raise Miss(f"the type of {source.name!r} is unknown")
    ones = np.ones(width, source.dtype.numpy())
    return initializer(graph, f"{source.name}.ones", ones)
