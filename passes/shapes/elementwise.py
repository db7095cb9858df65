"""Shapes of operators that keep or broadcast the shapes of their inputs."""

from __future__ import annotations

import onnx_ir as ir

from ..constants import int_attribute
from . import algebra
from .facts import Fact, Shape, Site

BOOL = ir.DataType.BOOL

KEEPS = frozenset(
    {"Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BitwiseNot",
     "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum", "Dropout", "Elu", "Erf", "Exp", "Floor",
     "Gelu", "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity",
     "InstanceNormalization", "LeakyRelu", "LogSoftmax", "Log", "LpNormalization",
     "MeanVarianceNormalization", "Mish", "Neg", "Not", "PRelu", "RMSNormalization", "Reciprocal",
     "Relu", "RotaryEmbedding", "Round", "ScatterElements", "ScatterND", "Selu", "Shrink",
     "Sigmoid", "Sign", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan",
     "Tanh", "ThresholdedRelu", "Trilu"}
)  # fmt: skip
"""First output: dtype and shape of the first input."""

BROADCASTS = frozenset(
    {"Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater",
     "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow",
     "Sub", "Sum", "Xor"}
)  # fmt: skip
"""All inputs broadcast against each other."""

_COMPARES = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def broadcast(*shapes: Shape | None) -> Shape | None:
    """The shape all broadcast to, None when a rank is unknown."""
    result: Shape = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(result), len(shape))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(shape)) + shape
        result = tuple(map(algebra.broadcast, left, right))
    return result


def keep(at: Site) -> list[Fact]:
    """The first input's dtype and shape; a mask of Dropout is boolean, the rest is unknown."""
    first = Fact(at.inputs[0].dtype, at.inputs[0].shape)
    second = [Fact(BOOL, first.shape)] if at.node.op_type == "Dropout" else []
    return [first, *second]


def spread(at: Site) -> list[Fact]:
    """Broadcast; comparisons are boolean."""
    dtype = BOOL if at.node.op_type in _COMPARES else at.inputs[0].dtype
    return [Fact(dtype, broadcast(*(fact.shape for fact in at.inputs)))]


def choose(at: Site) -> list[Fact]:
    """``Where``: the condition broadcasts too, the dtype is that of the branches."""
    dtype = at.inputs[1].dtype or at.inputs[2].dtype
    return [Fact(dtype, broadcast(*(fact.shape for fact in at.inputs)))]


def cast(at: Site) -> list[Fact]:
    """``Cast`` and the like."""
    if at.node.op_type == "CastLike":
        return [Fact(at.inputs[1].dtype, at.inputs[0].shape)]
    return [Fact(ir.DataType(int_attribute(at.node, "to", 0)), at.inputs[0].shape)]


def flag(at: Site) -> list[Fact]:
    """``IsNaN`` and ``IsInf``."""
    return [Fact(BOOL, at.inputs[0].shape)]


def quantize(at: Site) -> list[Fact]:
    """``QuantizeLinear``: the zero point tells the dtype, else the attribute, else uint8."""
    dtype = at.inputs[2].dtype if len(at.inputs) > 2 and at.inputs[2].dtype is not None else None
    wanted = int_attribute(at.node, "output_dtype", 0)
    return [Fact(dtype or ir.DataType(wanted or ir.DataType.UINT8), at.inputs[0].shape)]


def dequantize(at: Site) -> list[Fact]:
    """``DequantizeLinear``: the dtype of the scale, unless an attribute says otherwise."""
    wanted = int_attribute(at.node, "output_dtype", 0)
    return [Fact(ir.DataType(wanted) if wanted else at.inputs[1].dtype, at.inputs[0].shape)]


def layer_norm(at: Site) -> list[Fact]:
    """``LayerNormalization``; mean and inverse deviation have the normalised axes as 1."""
    first, shape = Fact(at.inputs[0].dtype, at.inputs[0].shape), at.inputs[0].shape
    if shape is None:
        return [first]
    axis = int_attribute(at.node, "axis", -1) % max(len(shape), 1)
    statistics = Fact(
        ir.DataType(int_attribute(at.node, "stash_type", 1)),
        shape[:axis] + (1,) * (len(shape) - axis),
    )
    return [first, statistics, statistics]
