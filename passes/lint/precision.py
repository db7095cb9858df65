"""Types that are refused, changed or missing on some GPUs, and numbers that leave their range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Array
from ..constants import array_of, int_attribute
from .finding import Hit, Rule, Subject, name_of

_D = ir.DataType
_REFUSED = frozenset(
    {_D.INT16, _D.UINT16, _D.UINT32, _D.UINT64, _D.STRING, _D.COMPLEX64, _D.COMPLEX128, _D.UINT4,
     _D.INT2, _D.UINT2, _D.FLOAT8E5M2, _D.FLOAT8E4M3FNUZ, _D.FLOAT8E5M2FNUZ}
)  # fmt: skip
_LACKING = {
    _D.BFLOAT16: frozenset({"SM75"}),
    _D.INT4: frozenset({"SM75"}),
    _D.FLOAT8E4M3FN: frozenset({"SM75", "SM80", "SM86"}),
    _D.FLOAT4E2M1: frozenset({"SM75", "SM80", "SM86", "SM89"}),
}
"""Which GPUs lack a type. Source: builds of one graph a type and GPU with TensorRT-RTX 1.7.1."""
_FLOAT16_MAX = 65504.0
_MASK_FILL = 1e30
"""Scalars from here on are mask fills, which fuselage's lowering saturates."""
_SMALL = 4096
"""Elements up to which constants are read; weights are checked when they are converted."""
_MIXABLE = {
    "MatMul": (0, 1), "Gemm": (0, 1, 2), "Add": (0, 1), "Sub": (0, 1), "Mul": (0, 1),
    "Div": (0, 1), "Min": (0, 1), "Max": (0, 1), "Equal": (0, 1), "Less": (0, 1),
    "Greater": (0, 1), "LessOrEqual": (0, 1), "GreaterOrEqual": (0, 1), "Where": (1, 2),
    "Concat": (0, 1), "LayerNormalization": (0, 1, 2), "RotaryEmbedding": (0, 1, 2),
}  # fmt: skip
"""Operators and the inputs whose types must agree; Pow, Clip and RMSNormalization cast."""


def _typed(subject: Subject) -> Iterator[tuple[str, ir.Value]]:
    """Inputs, constants and results, each once, with the name to report."""
    for value in subject.inputs:
        yield str(value.name), value
    for graph in subject.model.graphs():
        for name, value in graph.initializers.items():
            yield name, value
    for node in subject.nodes:
        for value in node.outputs:
            yield name_of(node), value


def _unsupported(subject: Subject) -> Iterator[Hit]:
    for name, value in _typed(subject):
        if value.dtype in _REFUSED:
            assert value.dtype is not None
            yield (
                name,
                f"{value.name!r} is {value.dtype.name}: TensorRT has no such type and the parser "
                "stops; convert it to int32, int64, int8 or a float type",
            )
        elif isinstance(value.type, ir.SequenceType | ir.OptionalType | ir.SparseTensorType):
            yield (
                name,
                f"{value.name!r} is no dense tensor: TensorRT has tensors alone; write it as "
                "a dense tensor",
            )


def _uint8(subject: Subject) -> Iterator[Hit]:
    for node in subject.nodes:
        output = node.outputs[0]
        if output.dtype != _D.UINT8 or output.is_graph_output():
            continue
        if node.op_type not in ("QuantizeLinear", "Constant", "DynamicQuantizeLinear"):
            yield (
                name_of(node),
                f"{output.name!r} is uint8 inside the graph: the parser takes it at inputs and "
                "outputs alone; cast to int32",
            )


def _float64(subject: Subject) -> Iterator[Hit]:
    for name, value in _typed(subject):
        if value.dtype == _D.DOUBLE:
            outside = value.is_graph_input() or value.is_graph_output()
            binding = ", and the engine's tensor of that name is float32" if outside else ""
            yield (
                name,
                f"{value.name!r} is float64: TensorRT computes it in float32 and says nothing"
                f"{binding}; cast it to float32 in the graph",
            )


def _hardware(subject: Subject) -> Iterator[Hit]:
    seen: set[ir.DataType] = set()
    for name, value in _typed(subject):
        dtype = subject.dtype(value)
        if dtype is None or dtype in seen:
            continue
        seen.add(dtype)
        lacking = [sm for sm in subject.compute_capabilities if sm in _LACKING.get(dtype, ())]
        if lacking:
            yield (
                name,
                f"{value.name!r} and others are {dtype.name}, which {', '.join(lacking)} lacks: "
                "the engine does not build for these GPUs; leave them out, or use another type",
            )


def _mixed(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type(*_MIXABLE):
        positions = range(len(node.inputs)) if node.op_type == "Concat" else _MIXABLE[node.op_type]
        operands = [node.inputs[index] for index in positions if index < len(node.inputs)]
        types = [dtype for value in operands if (dtype := subject.dtype(value)) is not None]
        if len(set(types)) > 1:
            names = " and ".join(dict.fromkeys(dtype.name for dtype in types))
            yield (
                name_of(node),
                f"{node.op_type} of {names}: TensorRT casts nothing and the parser stops; insert "
                "the Cast",
            )


def _float16_range(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("Cast"):
        array = _small(node.inputs[0])
        if int_attribute(node, "to", 0) == _D.FLOAT16 and _overflows(array):
            yield name_of(node), _overflow("a constant", array)
    for graph in subject.model.graphs():
        for name, value in graph.initializers.items():
            array = _small(value)
            if array is None or not _overflows(array):
                continue
            if value.dtype == _D.FLOAT16 or _is_to_be_lowered(subject, value, array):
                yield name, _overflow(repr(name), array)


def _small(value: ir.Value | None) -> Array | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > _SMALL or not tensor.dtype.is_floating_point():
        return None
    array = array_of(value)
    return None if array is None else array.astype(np.float64)


def _overflows(array: Array | None) -> bool:
    return array is not None and bool(np.abs(array).max(initial=0.0) > _FLOAT16_MAX)


def _is_to_be_lowered(subject: Subject, value: ir.Value, array: Array) -> bool:
    is_fill = array.size == 1 and bool(np.abs(array).max() >= _MASK_FILL)
    return subject.dtype(value) == _D.FLOAT16 and not is_fill


def _overflow(what: str, array: Array | None) -> str:
    assert array is not None
    extreme = array.reshape(-1)[np.abs(array).argmax()]
    return (
        f"{what} holds {extreme:.6g}, beyond float16, where it is infinite: a row of nothing but "
        "such fills becomes NaN in Softmax; use -65504 for a mask, or bfloat16"
    )


def _norm_float16(subject: Subject) -> Iterator[Hit]:
    for node in subject.of_type("RMSNormalization"):
        if int_attribute(node, "stash_type", 1) == _D.FLOAT16:
            yield name_of(node), _norm("RMSNormalization with stash_type float16")
    for node in subject.of_type("ReduceMean"):
        square = None if node.inputs[0] is None else node.inputs[0].producer()
        # Float32 stays float32 here: the lowering keeps reductions as they are.
        if square is None or node.outputs[0].dtype != _D.FLOAT16 or not _squares(square):
            continue
        yield name_of(node), _norm("a mean of squares in float16")


def _squares(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        array = _small(node.inputs[1])
        return array is not None and array.size == 1 and float(array.reshape(())) == 2.0
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _norm(what: str) -> str:
    return (
        f"{what}: TensorRT sums in float16 as it is told, and activations of 256 overflow; use "
        "LayerNormalization or RMSNormalization with stash_type float32"
    )


RULES = (
    Rule(
        name="unsupported-type",
        severity="error",
        title="a type that TensorRT does not have, strings, sequences and sparse tensors too",
        check=_unsupported,
    ),
    Rule(
        name="uint8-inside",
        severity="error",
        title="uint8 other than at inputs and outputs",
        check=_uint8,
    ),
    Rule(
        name="float64",
        severity="warning",
        title="float64, which is computed and bound as float32",
        check=_float64,
    ),
    Rule(
        name="hardware-type",
        severity="warning",
        title="a type that a GPU of the build lacks",
        check=_hardware,
    ),
    Rule(
        name="mixed-types",
        severity="error",
        title="operands of different types",
        check=_mixed,
    ),
    Rule(
        name="float16-range",
        severity="warning",
        title="a constant beyond the range of float16",
        check=_float16_range,
    ),
    Rule(
        name="norm-float16",
        severity="warning",
        title="a normalisation that sums squares in float16",
        check=_norm_float16,
    ),
)
