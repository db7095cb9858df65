"""Look through Casts that change no number."""

from __future__ import annotations

import onnx_ir as ir

from .constants import int_attribute, producer

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def uncast(value: ir.Value) -> ir.Value:
    """The value before Casts to its own type."""
    cast = producer(value, "Cast")
    source = None if cast is None else cast.inputs[0]
    if cast is None or source is None or source.dtype is None:
        return value
    return uncast(source) if source.dtype == int_attribute(cast, "to", 0) else value


def unwidened(value: ir.Value) -> ir.Value:
    """The value before Casts to its own type, or from 16 bits to float32."""
    value = uncast(value)
    cast = producer(value, "Cast")
    source = None if cast is None else cast.inputs[0]
    if cast is None or source is None or source.dtype not in _HALVES:
        return value
    return unwidened(source) if int_attribute(cast, "to", 0) == ir.DataType.FLOAT else value
