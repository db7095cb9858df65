"""The table of operators: what class each is of, how many operations it does, what it moves.

An operation is one addition, multiplication, comparison, or one evaluation of a function such as
exp, erf, tanh or a root, on one element. Sources: the ONNX operator specification
(https://onnx.ai/onnx/operators/, function bodies where it gives them) and, for ``com.microsoft``,
the ONNX Runtime contrib operators
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from . import products
from .polynomial import ZERO, Polynomial, product
from .site import Site

Moves = Literal["operands", "rows", "nothing", "result"]
"""What is read and written: all operands; only the part of the first that ends in the result;
nothing, because the result is the same memory; the result alone."""

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Operator:
    """A row of the table.

    Attributes:
        kind: class in reports and in the fit, such as ``product`` or ``attention``.
        text: the formula, for people. |X| and |Y| are the elements of first input and output.
        operations: the formula.
        moves: which bytes count.
    """

    kind: str
    text: str
    operations: Callable[[Site], Polynomial]
    moves: Moves = "operands"


def _each(kind: str, count: int) -> Operator:
    return Operator(kind, f"{count} |Y|", lambda site: site.out * count)


def _of_input(kind: str, count: int, of_result: int = 0) -> Operator:
    text = f"{count} |X|" + (f" + {of_result} |Y|" if of_result else "")
    return Operator(kind, text, lambda site: site.elements(0) * count + site.out * of_result)


def _layer_norm(site: Site) -> Polynomial:
    biased = site.has(2)
    return site.elements(0) * (7 if biased else 6) + _rows(site, 4)


def _rms_norm(site: Site) -> Polynomial:
    return site.elements(0) * 4 + _rows(site, 3)


def _skip_layer_norm(site: Site) -> Polynomial:
    added = 1 + site.has(4)
    return site.elements(0) * ((7 if site.has(3) else 6) + added) + _rows(site, 4)


def _skip_rms_norm(site: Site) -> Polynomial:
    return site.elements(0) * (5 + site.has(3)) + _rows(site, 3)


def _rows(site: Site, count: int) -> Polynomial:
    """What is done once for each normalised vector."""
    axis = site.int_attribute("axis", -1)
    return product(site.dims(0)[:axis]) * count


def _gelu(site: Site) -> Polynomial:
    return site.out * (9 if site.text_attribute("approximate", "none") == "tanh" else 5)


def _fast_gelu(site: Site) -> Polynomial:
    return site.out * (10 if site.has(1) else 9)


def _none(_: Site) -> Polynomial:
    return ZERO


_ATTENTION = "B Hq Sq Sk (2 d + 2 dv + 5 + 1 for the scale, the mask, causality each, 3 soft cap)"

_MOVED = Operator("movement", "0", _none)
_ROWS = Operator("movement", "0", _none, "rows")
_VIEW = Operator("view", "0", _none, "nothing")
_MADE = Operator("movement", "0", _none, "result")

OPERATORS: Mapping[str, Operator] = {
    # products
    "MatMul": Operator("product", "2 K |Y|", products.multiply),
    "MatMulInteger": Operator("product", "2 K |Y|", products.multiply),
    "QLinearMatMul": Operator("product", "2 K |Y| + 3 |Y|", products.multiply_requantizing),
    "Gemm": Operator(
        "product", "2 K |Y| + |Y| for the addend, alpha, beta each", products.gemm
    ),
    "Conv": Operator("product", "2 C/g kernel |Y| + |Y| for a bias", products.convolve),
    "com.microsoft::FusedConv": Operator(
        "product", "2 C/g kernel |Y| + |Y| for a bias", products.convolve
    ),
    "com.microsoft.nchwc::Conv": Operator(
        "product", "2 C/g kernel |Y| + |Y| for a bias", products.convolve
    ),
    "com.microsoft::FusedMatMul": Operator(
        "product", "2 K |Y| + |Y| for alpha", products.fused_multiply
    ),
    "com.microsoft::MatMulIntegerToFloat": Operator(
        "product", "2 K |Y| + |Y| scale + |Y| for a bias", products.multiply_scaled
    ),
    "com.microsoft::DynamicQuantizeMatMul": Operator(
        "product", "2 K |Y| + 5 |X| + |Y| scale + |Y| for a bias", products.multiply_quantizing
    ),
    "com.microsoft::MatMulNBits": Operator(
        "product", "2 K |Y| + 2 K N + |Y| for a bias", products.multiply_packed
    ),
    # attention
    "Attention": Operator("attention", _ATTENTION, products.attend),
    "com.microsoft::MultiHeadAttention": Operator(
        "attention", f"{_ATTENTION} + |Q| + |K| + |V| for biases", products.attend_heads
    ),
    "com.microsoft::GroupQueryAttention": Operator(
        "attention", _ATTENTION, products.attend_groups
    ),
    "com.microsoft::Attention": Operator(
        "attention", f"2 D N B S + N B S + {_ATTENTION}", products.project_and_attend
    ),
    "com.microsoft::QAttention": Operator(
        "attention", f"2 D N B S + N B S + {_ATTENTION}", products.project_and_attend
    ),
    "RotaryEmbedding": _of_input("elementwise", 3),
    "com.microsoft::RotaryEmbedding": _of_input("elementwise", 3),
    # norms
    "LayerNormalization": Operator("norm", "6 |X| + |X| for a bias + 4 rows", _layer_norm),
    "RMSNormalization": Operator("norm", "4 |X| + 3 rows", _rms_norm),
    "SimplifiedLayerNormalization": Operator("norm", "4 |X| + 3 rows", _rms_norm),
    "com.microsoft::SkipLayerNormalization": Operator(
        "norm", "7 |X| + |X| for beta, bias each + 4 rows", _skip_layer_norm
    ),
    "com.microsoft::SkipSimplifiedLayerNormalization": Operator(
        "norm", "5 |X| + |X| for a bias + 3 rows", _skip_rms_norm
    ),
    # activations
    "Gelu": Operator("activation", "5 |Y|, with tanh 9 |Y|", _gelu),
    "com.microsoft::Gelu": _each("activation", 5),
    "com.microsoft::BiasGelu": _each("activation", 6),
    "com.microsoft::FastGelu": Operator("activation", "9 |Y| + |Y| for a bias", _fast_gelu),
    "com.microsoft::QuickGelu": _each("activation", 6),
    "Sigmoid": _each("activation", 4),
    "Swish": _each("activation", 5),
    "Softplus": _each("activation", 3),
    "Softmax": _of_input("softmax", products.SOFTMAX),
    "LogSoftmax": _of_input("softmax", products.SOFTMAX + 1),
    **{
        name: _each("activation", 1)
        for name in ("Erf", "Tanh", "Relu", "Exp", "Log", "Sin", "Cos")
    },
    **{name: _each("activation", 2) for name in ("LeakyRelu", "Elu", "HardSigmoid")},
    # elementwise
    **{
        name: _each("elementwise", 1)
        for name in (
            "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Abs", "Floor", "Ceil",
            "Round", "Sign", "Mod", "Min", "Max", "Where", "Equal", "Greater", "Less",
            "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf",
        )
    },
    "Clip": _each("elementwise", 2),
    # reductions
    **{
        name: _of_input("reduction", 1)
        for name in (
            "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin", "CumSum",
        )
    },
    "ReduceMean": _of_input("reduction", 1, 1),
    "ReduceSumSquare": _of_input("reduction", 2),
    "ReduceL1": _of_input("reduction", 2),
    "ReduceL2": _of_input("reduction", 2, 1),
    "ReduceLogSumExp": _of_input("reduction", 2, 1),
    # quantisation
    "QuantizeLinear": _each("quantization", 3),
    "DequantizeLinear": _each("quantization", 2),
    "DynamicQuantizeLinear": _each("quantization", 5),
    "com.microsoft::QuantizeLinear": _each("quantization", 3),
    "com.microsoft::DequantizeLinear": _each("quantization", 2),
    "com.microsoft::QLinearAdd": _each("quantization", 8),
    "com.microsoft::QLinearMul": _each("quantization", 8),
    "com.microsoft::QLinearSoftmax": _of_input("quantization", products.SOFTMAX + 5),
    "com.microsoft::QLinearSigmoid": _each("quantization", 9),
    # movement
    **dict.fromkeys(("Gather", "GatherElements", "GatherND", "Slice"), _ROWS),
    **dict.fromkeys(
        ("Transpose", "Concat", "Split", "Expand", "Tile", "Pad", "Cast", "CastLike", "Trilu"),
        _MOVED,
    ),
    "com.microsoft.nchwc::ReorderInput": _MOVED,
    "com.microsoft.nchwc::ReorderOutput": _MOVED,
    **dict.fromkeys(("Shape", "Size", "Range", "ConstantOfShape", "Constant"), _MADE),
    **dict.fromkeys(
        ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Dropout"), _VIEW
    ),
}  # fmt: skip
"""Operator, with its domain where that is not the standard one -> its row."""


def name_of(site: Site) -> str:
    """The operator of a node as the table spells it."""
    domain = site.node.domain
    return site.node.op_type if domain in ("", "ai.onnx") else f"{domain}::{site.node.op_type}"
