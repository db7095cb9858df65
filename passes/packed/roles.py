"""What the values of an encoder are to the axis of its tokens."""

from __future__ import annotations

from enum import Enum, auto

import onnx_ir as ir


class Role(Enum):
    """How a value relates to the tokens of a row."""

    CONSTANT = auto()
    """The same for every input."""
    SIZE = auto()
    """Computed from sizes alone, equal along the tokens."""
    TOKENS = auto()
    """[rows, length, ...]: what stands at a token comes from that token, and from attention."""
    DISTANCE = auto()
    """[..., length, length]: a function of the key's column less the query's."""
    POOLED = auto()
    """[rows * slots, ...]: one entry a text."""


class Miss(Exception):  # noqa: N818  (control flow of these files, becomes a PassError)
    """Why a graph cannot be packed."""


def rank_of(value: ir.Value | None) -> int:
    """Number of axes.

    Raises:
        Miss: when it is unknown.
    """
    if value is None or value.shape is None:
        raise Miss("its rank is unknown; infer shapes first")
    return len(value.shape)


ELEMENTWISE = frozenset(
    {"Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp",
     "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
     "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or",
     "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt",
     "Sub", "Swish", "Tanh", "Where", "Xor"}
)  # fmt: skip
"""Operators whose answer at a place comes from that place."""

SHAPE_OPERATORS = ELEMENTWISE | {
    "Concat", "ConstantOfShape", "Expand", "Gather", "ReduceProd", "Reshape", "Shape", "Size",
    "Slice", "Squeeze", "Unsqueeze",
}  # fmt: skip
"""What sizes are computed with."""
