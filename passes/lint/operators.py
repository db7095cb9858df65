"""Standard operators and forms of them that the parser or the builder refuses."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..constants import int_attribute
from .finding import Hit, Rule, Subject, name_of, operand

_NO_IMPORTER = frozenset(
    {"AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr",
     "BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "ConvInteger",
     "CumProd", "DFT", "DeformConv", "Det", "DynamicQuantizeLinear", "ImageDecoder",
     "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial",
     "NegativeLogLikelihoodLoss", "NonZero", "Optional", "OptionalGetElement",
     "OptionalHasElement", "QLinearConv", "QLinearMatMul", "RegexFullMatch", "SequenceAt",
     "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
     "SequenceMap", "SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat",
     "StringNormalizer", "StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"}
)  # fmt: skip
"""Source: OnnxParser.supports_operator of TensorRT-RTX 1.7.1 over the 203 operators of onnx 1.23.

NonZero is added: the parser claims it and then misses its plugin.
"""
_QUANTISED = "quantise with QuantizeLinear and DequantizeLinear around the float operator"
_INSTEAD = {
    "BitwiseAnd": "cast to bool and use And",
    "BitwiseOr": "cast to bool and use Or",
    "BitwiseNot": "cast to bool and use Not",
    "NonZero": "use Where or a mask, or compute the indices outside the graph",
    "DynamicQuantizeLinear": _QUANTISED,
    "MatMulInteger": _QUANTISED,
    "ConvInteger": _QUANTISED,
    "QLinearMatMul": _QUANTISED,
    "QLinearConv": _QUANTISED,
}
_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.INT8, ir.DataType.UINT8})
_CACHES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def _no_importer(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type(*_NO_IMPORTER):
        instead = _INSTEAD.get(node.op_type, "replace it by operators that TensorRT imports")
        yield name_of(node), f"{node.op_type}: the parser refuses this operator; {instead}"


def _integer_product(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("MatMul", "Gemm"):
        dtype = subject.dtype(operand(node, 0))
        if dtype in _INTEGERS:
            yield (
                name_of(node),
                f"{node.op_type} of {dtype.name}: TensorRT multiplies matrices of floats alone; "
                "cast to float, or put DequantizeLinear in front of codes",
            )


def _layer_norm_outputs(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("LayerNormalization"):
        if len(node.outputs) > 1:
            yield (
                name_of(node),
                f"LayerNormalization with {len(node.outputs)} outputs: the parser takes one; drop "
                "the mean and the deviation, or compute them by ReduceMean",
            )


def _tensor_scatter(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("TensorScatter"):
        for got in _unfit_scatter(subject, node):
            yield (
                name_of(node),
                f"TensorScatter {got}: TensorRT appends to a cache that is an input [batch, heads, "
                "length, size] of static length and float type, along axis -2, linearly, and "
                "whose result is an output; bring it into this form, or use Concat",
            )


def _unfit_scatter(subject: Subject, node: ir.Node) -> Iterator[str]:
    cache, output = node.inputs[0], node.outputs[0]
    mode = node.attributes.get_string("mode", "linear")
    if mode != "linear":
        yield f"in mode {mode!r}"
    if cache is not None and cache.producer() is not None:
        yield f"into {cache.name!r}, which is no graph input"
    if not output.is_graph_output():
        yield f"gives {output.name!r}, which is no graph output"
    dtype = subject.dtype(cache)
    if dtype is not None and dtype not in _CACHES:
        yield f"of {dtype.name}"
    if cache is None or cache.shape is None:
        return
    rank, axis = len(cache.shape), int_attribute(node, "axis", -2)
    if rank != 4:
        yield f"of rank {rank}"
    elif axis not in (-2, rank - 2):
        yield f"along axis {axis}"
    elif not isinstance(cache.shape[-2], int):
        yield f"into the dynamic length {cache.shape[-2]}"


def _if_branches(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("If"):
        if ir.convenience.get_const_tensor(node.inputs[0]) is not None:  # type: ignore[arg-type]
            continue
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        for left, right in zip(*(branch.outputs for branch in branches), strict=False):
            got = _difference(subject, left, right)
            if got is not None:
                yield (
                    name_of(node),
                    f"If whose branches give {got}: TensorRT builds both branches into one "
                    "tensor, or fails; make them agree, or the condition a constant",
                )


def _difference(subject: Subject, left: ir.Value, right: ir.Value) -> str | None:
    kinds = [None if v.dtype is None else v.dtype.name for v in (left, right)]
    if None not in kinds and kinds[0] != kinds[1]:
        return f"{kinds[0]} and {kinds[1]}"
    if left.shape is None or right.shape is None:
        return None
    if len(left.shape) != len(right.shape):
        return f"ranks {len(left.shape)} and {len(right.shape)}"
    for one, other in zip(left.shape, right.shape, strict=True):
        # A name that inference made up may stand for any size.
        known = [dim for dim in (one, other) if isinstance(dim, int) or _is_input(subject, dim)]
        if len(known) == 2 and one != other:
            return f"{left.shape} and {right.shape}"
    return None


def _is_input(subject: Subject, dim: ir.SymbolicDim) -> bool:
    return dim.value in subject.input_symbols


def _loop_scan(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Loop"):
        carried = len(node.inputs) - 2
        if len(node.outputs) <= carried or operand(node, 0) is None or operand(node, 1) is None:
            continue
        body = node.attributes["body"].as_graph()
        if _passes_on(body.outputs[0], body.inputs[1]):
            continue
        yield (
            name_of(node),
            "Loop with a trip count, a condition and a collected output: when the condition ends "
            "it early, TensorRT gives that output the wrong length; leave the condition constant",
        )


def _passes_on(condition: ir.Value, given: ir.Value) -> bool:
    producer = condition.producer()
    while producer is not None and producer.op_type in ("Identity", "Cast"):
        condition = producer.inputs[0] or condition
        producer = condition.producer()
    return condition is given or ir.convenience.get_const_tensor(condition) is not None


RULES = (
    Rule(
        name="no-importer",
        severity="error",
        title="a standard operator that the parser cannot import",
        check=_no_importer,
    ),
    Rule(
        name="integer-product",
        severity="error",
        title="a matrix product of integers",
        check=_integer_product,
    ),
    Rule(
        name="layer-norm-outputs",
        severity="error",
        title="LayerNormalization that also gives mean or deviation",
        check=_layer_norm_outputs,
    ),
    Rule(
        name="tensor-scatter-form",
        severity="error",
        title="TensorScatter other than a linear append to a static cache between input and output",
        check=_tensor_scatter,
    ),
    Rule(
        name="if-branches",
        severity="error",
        title="If whose branches differ in type or shape",
        check=_if_branches,
    ),
    Rule(
        name="loop-scan-condition",
        severity="warning",
        title="Loop that collects outputs and may end early",
        check=_loop_scan,
    ),
)
