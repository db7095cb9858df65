"""Where a channel transform costs nothing: the operator in front of a linear that can take it over.

| producer of the activation | scale | shift |
|---|---|---|
| LayerNormalization | gain | bias |
| RMSNormalization | gain | no |
| Attention (its values come out of a linear) | columns of the value projection | no |
| a linear | columns | bias |
| Relu of a linear | columns | no |
| product with a linear (gated feed-forward) | columns of that linear | no |
| anything else | one Mul in front of Q | one Add, best of one number |
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..constants import array_of, int_attribute, producer, sole_consumer
from .policy import constant_operand

Shift = Literal["channel", "uniform", "none"]


@dataclass(frozen=True)
class LinearSource:
    """``y = x @ W + b`` in front of an activation.

    Attributes:
        gemm: MatMul or Gemm with a constant weight.
        add: the Add of a constant bias, None without one.
    """

    gemm: ir.Node
    add: ir.Node | None


@dataclass(frozen=True, kw_only=True)
class Site:
    """What can be done to one activation.

    Attributes:
        norm: the normalisation whose gain takes the scale; other readers get the tensor restored.
        linear: the linear whose columns take the scale.
        shift: whether each channel can be shifted for nothing, all of them alike, or none.
        tied: channels with equal numbers must have equal scales, ``[channels]``; None when free.
    """

    norm: ir.Node | None = None
    linear: LinearSource | None = None
    shift: Shift
    tied: NDArray[np.intp] | None = None

    @property
    def name(self) -> str:
        """For reports: into what the transform goes."""
        if self.norm is not None:
            return "norm"
        return "explicit" if self.linear is None else "linear"


def find_site(x: ir.Value, readers: Collection[ir.Node]) -> Site:
    """Look at what produces an activation.

    Args:
        x: the activation.
        readers: the linears whose weights will undo the transform.
    """
    norm = producer(x, "LayerNormalization", "RMSNormalization")
    if norm is not None and _scales_last_axis(norm, _depth(readers)):
        return Site(norm=norm, shift="channel" if norm.op_type == "LayerNormalization" else "none")
    if x.is_graph_output() or any(usage.node not in readers for usage in x.uses()):
        return _EXPLICIT
    attention = producer(x, "Attention")
    if attention is not None:
        return _behind_attention(attention)
    relu = producer(x, "Relu")
    if relu is not None:
        return _scaled(_only_read_source(relu.inputs[0]))
    product = producer(x, "Mul")
    if product is not None:
        sources = [_only_read_source(operand) for operand in product.inputs]
        return _scaled(next((source for source in sources if source is not None), None))
    source = linear_source(x)
    return _EXPLICIT if source is None else Site(linear=source, shift="channel")


def linear_source(value: ir.Value | None) -> LinearSource | None:
    """The linear that writes the value, or None."""
    gemm = producer(value, "MatMul", "Gemm")
    if gemm is not None:
        return LinearSource(gemm, None) if _is_linear(gemm) else None
    add = producer(value, "Add")
    if add is None:
        return None
    for operand, bias in (add.inputs, reversed(add.inputs)):
        gemm = producer(operand, "MatMul", "Gemm")
        if gemm is None or not _is_linear(gemm) or sole_consumer(gemm.outputs[0], "Add") is not add:
            continue
        constant = array_of(bias)
        if constant is not None and constant.ndim <= 1 and constant.size in (1, _channels(gemm)):
            return LinearSource(gemm, add)
    return None


def bias_of(add: ir.Node) -> int:
    """Which operand of a LinearSource's Add is the constant."""
    return 0 if array_of(add.inputs[0]) is not None else 1


_EXPLICIT = Site(shift="uniform")


def _scaled(source: LinearSource | None) -> Site:
    return _EXPLICIT if source is None else Site(linear=source, shift="none")


def _only_read_source(value: ir.Value | None) -> LinearSource | None:
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    return linear_source(value)


def _scales_last_axis(norm: ir.Node, channels: int) -> bool:
    gain = array_of(norm.inputs[1]) if len(norm.inputs) > 1 else None
    if gain is None or gain.ndim != 1 or gain.size != channels:
        return False
    shape = norm.outputs[0].shape
    rank = None if shape is None else len(shape)
    if int_attribute(norm, "axis", -1) not in (-1, None if rank is None else rank - 1):
        return False
    bias = norm.inputs[2] if len(norm.inputs) > 2 else None
    return bias is None or array_of(bias) is not None


def _behind_attention(attention: ir.Node) -> Site:
    """Each output channel is a mean of one value channel, so both scale alike."""
    heads = [int_attribute(attention, name, 0) for name in ("q_num_heads", "kv_num_heads")]
    has_cache = any(value is not None for value in attention.inputs[4:6])
    has_present = any(value.uses() or value.is_graph_output() for value in attention.outputs[1:])
    source = _only_read_source(attention.inputs[2])
    if source is None or not all(heads) or has_cache or has_present:
        return _EXPLICIT
    queries, keys = heads
    if queries == keys:
        return Site(linear=source, shift="none")
    numbers = np.arange(_channels(source.gemm)).reshape(keys, 1, -1)
    tied = np.broadcast_to(numbers, (keys, queries // keys, numbers.shape[-1]))
    return Site(linear=source, shift="none", tied=tied.reshape(-1))


def _depth(readers: Collection[ir.Node]) -> int:
    """Channels of the tensor that these linears read."""
    return _shape(next(iter(readers)))[0]


def _channels(gemm: ir.Node) -> int:
    """Output channels."""
    return _shape(gemm)[1]


def _shape(gemm: ir.Node) -> tuple[int, int]:
    """K and N."""
    operand = gemm.inputs[1]
    found = None if operand is None else constant_operand(operand)
    assert found is not None
    tensor = ir.convenience.get_const_tensor(found[0])
    assert tensor is not None
    rows, columns = (int(size) for size in tensor.shape.numpy())
    turned = found[1] != bool(int_attribute(gemm, "transB", 0))
    return (columns, rows) if turned else (rows, columns)


def _is_linear(gemm: ir.Node) -> bool:
    weight = gemm.inputs[1]
    found = None if weight is None else constant_operand(weight)
    if found is None or int_attribute(gemm, "transA", 0) or found[0].is_graph_input():
        return False
    tensor = ir.convenience.get_const_tensor(found[0])
    return tensor is not None and len(tensor.shape) == 2
