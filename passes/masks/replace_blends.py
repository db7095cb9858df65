"""Write a choice by a mask of zeros and ones as a choice.

    x * b + (1 - b) * c  ->  Where(b, x, c)      where b holds zeros and ones, c is a number

GPT spells its causal mask like this, and graphs converted from TensorFlow all their masks. The
equation holds for finite x; an x that is infinite or NaN is hidden by the choice as it should.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import (
    array_of,
    initializer,
    insert_before,
    producer,
    remove_dead,
    replace_value,
    scalar_of,
)

_MOVES = (
    "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""Operators whose result holds elements of their first input, and no others."""

_DEPTH = 12


@dataclass(frozen=True)
class ReplaceBlends(Pass):
    """Replace sums of what a mask keeps and a number where it does not by Where."""

    name = "replace-blends"
    min_opset = 9

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        sums = [node for node in model.graph if node.op_type in ("Add", "Sub") and not node.domain]
        return result(model, sum(_replace(model.graph, node) for node in sums))


def _replace(graph: ir.Graph, node: ir.Node) -> int:
    if node.graph is None or len(node.inputs) != 2:
        return 0
    for kept, rest in (node.inputs, node.inputs[::-1]) if node.op_type == "Add" else (node.inputs,):
        mask, number = _hidden(rest)
        x = None if mask is None else _factor_beside(kept, mask)
        if mask is None or x is None or mask.dtype is None or not _is_binary(mask):
            continue
        fill = np.array(number if node.op_type == "Add" else -number, mask.dtype.numpy())
        tape = ir.tape.Tape()
        keep = tape.op("Cast", [mask], {"to": ir.DataType.BOOL})
        keep.type, keep.shape = ir.TensorType(ir.DataType.BOOL), mask.shape
        chosen = tape.op("Where", [keep, x, initializer(graph, "blend.fill", fill)])
        insert_before(node, tape.nodes)
        replace_value(node.outputs[0], chosen)
        remove_dead(node)
        return 1
    return 0


def _hidden(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """The b and c of ``(1 - b) * c``."""
    product = producer(value, "Mul")
    for left, right in (product.inputs, product.inputs[::-1]) if product is not None else ():
        number, rest = scalar_of(right), producer(left, "Sub")
        if number is not None and rest is not None and scalar_of(rest.inputs[0]) == 1.0:
            return rest.inputs[1], number
    return None, 0.0


def _factor_beside(value: ir.Value | None, mask: ir.Value) -> ir.Value | None:
    """The x of ``x * b``."""
    product = producer(value, "Mul")
    if product is None or mask not in product.inputs:
        return None
    left, right = product.inputs
    return left if right is mask else right


def _is_binary(value: ir.Value | None) -> bool:
    """Whether a value holds zeros and ones alone, which booleans and tables of them show."""
    for _ in range(_DEPTH):
        table = array_of(value)
        if table is not None:
            return bool(np.isin(table, (0, 1)).all())
        if value is not None and value.dtype == ir.DataType.BOOL:
            return True
        node = producer(value, "Cast", *_MOVES)
        if node is None:
            return False
        value = node.inputs[0]
    return False
