"""Normalise heads before they are transposed, not after.

    Norm(Transpose(x, perm))  ->  Transpose(Norm(x), perm)      where perm keeps the last axis last

A norm over the last axis does not mind the order of the others. Some models normalise query and
key heads on this side of the transposition and some on that; on this side the transposition meets
the attention, which then does it itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import (
    insert_before,
    int_attribute,
    permutation_of,
    producer,
    remove_dead,
    replace_value,
    sole_consumer,
)

_NORMS = frozenset({"RMSNormalization", "LayerNormalization"})


@dataclass(frozen=True)
class HoistNorms(Pass):
    """Swap a norm of the last axis with the transposition that it alone reads."""

    name = "hoist-norms"

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        nodes = [node for node in model.graph if node.op_type in _NORMS and not node.domain]
        return result(model, sum(map(_hoist, nodes)))


def _hoist(norm: ir.Node) -> int:
    transpose = producer(norm.inputs[0], "Transpose")
    x = None if transpose is None else transpose.inputs[0]
    if transpose is None or x is None or len(norm.outputs) != 1:
        return 0
    if sole_consumer(transpose.outputs[0], norm.op_type) is None:
        return 0
    perm = permutation_of(transpose)
    last = len(perm) - 1
    if not perm or perm[-1] != last or int_attribute(norm, "axis", -1) not in (-1, last):
        return 0
    tape = ir.tape.Tape()
    inner = tape.op(
        norm.op_type,
        [x, *norm.inputs[1:]],
        {**{name: item.value for name, item in norm.attributes.items()}, "axis": -1},
    )
    inner.type, inner.shape = x.type, x.shape
    outer = tape.op("Transpose", [inner], {"perm": list(perm)})
    insert_before(norm, tape.nodes)
    replace_value(norm.outputs[0], outer)
    remove_dead(norm)
    return 1
