"""Shapes of operators that ONNX does not know, where the file does not say them.

The passes and ONNX Runtime write the shapes they know into the graph; what other tools write may
lack them. A shape is declared on a copy of the graph, and the analysis of the standard operators
goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ...graph.model import Graph
from ...graph.tensors import Dim
from ...passes.shapes import algebra
from ...passes.shapes.analysis import analyse
from .site import Site, UncountableError

Dims = tuple[Dim, ...]

_MOST_WALKS = 64
"""Each walk reaches the next foreign operator whose shape the file does not say."""


def declare_foreign(graph: Graph) -> ir.Model:
    """The model, or a copy of it in which the shapes of foreign operators are declared."""
    model = graph.model
    for _ in range(_MOST_WALKS):
        facts = analyse(model)
        found = {
            index: inferred
            for index, node in enumerate(model.graph)
            if node.domain not in ("", "ai.onnx") and (inferred := _inferred(Site(node, facts)))
        }
        if not found:
            return model
        if model is graph.model:
            model = graph.clone().model
        nodes = list(model.graph)
        for index, (dims, dtype) in found.items():
            value = nodes[index].outputs[0]
            value.shape = ir.Shape(dims)
            if value.dtype is None and dtype is not None:
                value.type = ir.TensorType(dtype)
    return model


def _inferred(site: Site) -> tuple[Dims, ir.DataType | None] | None:
    """Dims and type of the first output; None when it is known, or cannot be."""
    rule = _RULES.get(site.node.op_type)
    if rule is None or site.facts[site.node.outputs[0]].shape is not None:
        return None
    try:
        dims = rule(site)
    except (UncountableError, IndexError):
        return None
    first = site.facts[site.input(0)].dtype
    return dims, ir.DataType.FLOAT if site.node.op_type in _MAKES_FLOAT else first


def _same(site: Site) -> Dims:
    return site.dims(0)


def _multiplied(site: Site) -> Dims:
    left, right = site.dims(0), site.dims(1)
    if site.int_attribute("transA", 0):
        left = (*left[:-2], left[-1], left[-2])
    if site.int_attribute("transB", 0):
        right = (*right[:-2], right[-1], right[-2])
    if len(right) > len(left):
        return (*right[:-2], left[-2], right[-1])
    return (*left[:-1], right[-1])


def _packed(site: Site) -> Dims:
    channels = site.int_attribute("N", 0)
    if channels < 1:
        raise UncountableError("it has no N")
    return (*site.dims(0)[:-1], channels)


def _attended(site: Site) -> Dims:
    query = site.dims(0)
    if len(query) == 5:
        return (*query[:2], _times(query[2], query[4]))
    value = site.dims(2) if site.has(2) else query
    last = _times(value[1], value[3]) if len(value) == 4 else value[-1]
    return (*query[:2], last)


def _projected(site: Site) -> Dims:
    return (*site.dims(0)[:2], site.number(1, 1) // 3)


def _first_and_fourth(site: Site) -> Dims:
    left, right = site.dims(0), site.dims(3)
    long, short = (left, right) if len(left) >= len(right) else (right, left)
    padded = (*([1] * (len(long) - len(short))), *short)
    met = [algebra.broadcast(one, two) for one, two in zip(long, padded, strict=True)]
    return tuple(dim if dim is not None else one for dim, one in zip(met, long, strict=True))


def _convolved(site: Site) -> Dims:
    """Conv of ONNX Runtime's blocked layout: images by their height and width."""
    image, channels = site.dims(0), site.number(1, 0)
    axes = len(image) - 2
    kernel = site.ints_attribute("kernel_shape") or tuple(
        site.number(1, axis + 2) for axis in range(axes)
    )
    strides = site.ints_attribute("strides") or (1,) * axes
    apart = site.ints_attribute("dilations") or (1,) * axes
    pads = site.ints_attribute("pads") or (0,) * (2 * axes)
    sizes = [
        _steps(image[axis + 2], pads[axis] + pads[axis + axes], reach, strides[axis])
        for axis, reach in enumerate((k - 1) * d + 1 for k, d in zip(kernel, apart, strict=True))
    ]
    return (image[0], channels, *sizes)


def _steps(size: Dim, padding: int, reach: int, stride: int) -> Dim:
    room = algebra.add(size, padding - reach)
    steps = None if room is None else algebra.divide(room, stride)
    found = None if steps is None else algebra.add(steps, 1)
    if found is None:
        raise UncountableError(f"the windows over {size} are not known")
    return found


def _reordered(site: Site) -> Dims:
    image, channels = site.dims(0), site.int_attribute("channels", 0)
    return (image[0], channels or image[1], *image[2:])


def _times(left: Dim, right: Dim) -> Dim:
    found = algebra.multiply(left, right)
    if found is None:
        raise UncountableError(f"{left} x {right} is too large")
    return found


_MAKES_FLOAT = frozenset({"MatMulIntegerToFloat", "DequantizeLinear"})

_RULES: Mapping[str, Callable[[Site], Dims]] = {
    **dict.fromkeys(
        ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "SkipLayerNormalization",
         "SkipSimplifiedLayerNormalization", "RotaryEmbedding", "QLinearSoftmax", "QLinearSigmoid",
         "DequantizeLinear"),
        _same,
    ),
    **dict.fromkeys(("FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _multiplied),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), _first_and_fourth),
    "MatMulNBits": _packed,
    "MultiHeadAttention": _attended,
    "Attention": _projected,
    "QAttention": _projected,
    "GroupQueryAttention": _same,
    "Conv": _convolved,
    "ReorderInput": _same,
    "ReorderOutput": _reordered,
}  # fmt: skip
"""Operator of ONNX Runtime's own domains -> dims of its first output."""
