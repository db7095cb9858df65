"""What operators are for, in the few kinds that a picture can tell apart."""

from __future__ import annotations

from dataclasses import dataclass

_WORDS = {
    "linear": """MatMul Gemm Conv MatMulInteger MatMulIntegerToFloat QLinearMatMul FusedMatMul
        FusedGemm MatMulNBits DynamicQuantizeMatMul QGemm Einsum TransposeMatMul""",
    "attention": """Attention MultiHeadAttention GroupQueryAttention DecoderMaskedMultiHeadAttention
        Softmax RotaryEmbedding PackedAttention""",
    "norm": """LayerNormalization RMSNormalization SkipLayerNormalization GroupNormalization
        SimplifiedLayerNormalization SkipSimplifiedLayerNormalization BatchNormalization
        EmbedLayerNormalization LpNormalization""",
    "activation": """Gelu FastGelu BiasGelu QuickGelu Erf Tanh Relu Sigmoid Silu Swish HardSwish
        Mish LeakyRelu Elu Softplus""",
    "quantise": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
    "lookup": "Gather GatherND GatherElements ScatterND ScatterElements OneHot TensorScatter",
    "arithmetic": """Add Sub Mul Div Pow Sqrt Reciprocal Exp Log Abs Neg Max Min Mean Sum Clip
        Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Not IsNaN IsInf ReduceMean
        ReduceSum ReduceMax ReduceMin ReduceL2 ReduceL1 ReduceProd CumSum Mod Floor Ceil Round
        Sign Cos Sin""",
    "shape": """Reshape Transpose Concat Slice Split Expand Squeeze Unsqueeze Flatten Cast CastLike
        Identity Shape Size Constant ConstantOfShape Range Tile Pad Trilu EyeLike NonZero""",
}  # fmt: skip
_KIND_OF = {operator: kind for kind, words in _WORDS.items() for operator in words.split()}


@dataclass(frozen=True)
class Kind:
    """A kind of operator: its key, its name, and the colour that stands for it."""

    key: str
    name: str
    colour: str


KINDS = (
    Kind("linear", "Matrix products", "c1"),
    Kind("attention", "Attention", "c2"),
    Kind("norm", "Normalisation", "c3"),
    Kind("activation", "Activation", "c4"),
    Kind("quantise", "Quantise, dequantise", "c5"),
    Kind("lookup", "Lookup", "c6"),
    Kind("arithmetic", "Arithmetic", "n1"),
    Kind("shape", "Shapes and moves", "n2"),
    Kind("other", "Other", "n3"),
)
BY_KEY = {kind.key: kind for kind in KINDS}


def kind_of(operator: str) -> Kind:
    """The kind of an operator, of any domain."""
    return BY_KEY[_KIND_OF.get(operator.rpartition(":")[2], "other")]
