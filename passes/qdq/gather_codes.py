"""Look codes up in a table before they are dequantised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ..base import EXACT, Pass, PassResult, result
from ..constants import array_of, insert_before, int_attribute, producer, remove_dead, replace_value


@dataclass(frozen=True)
class GatherCodes(Pass):
    """Let a Gather read the codes of a table, and dequantise the rows it picked.

        Gather(DQ(codes, scale), ids)  ->  DQ(Gather(codes, ids), scale)

    The same numbers, for one scale a table. ONNX Runtime would dequantise all of MiniLM's 30,522
    rows at each run: 3.4 ms instead of 1.7 for 16 tokens. A lowering of ``ort-cpu`` alone:
    TensorRT gathers codes by itself, and does not build the new form.
    """

    name: ClassVar[str] = "gather-codes"
    min_opset: ClassVar[int] = 13

    @property
    def tolerance(self) -> float:
        """The same numbers."""
        return EXACT

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        gathers = [node for node in model.graph if node.op_type == "Gather" and not node.domain]
        return result(model, sum(map(_swap, gathers)))


def _swap(gather: ir.Node) -> bool:
    restored, ids = gather.inputs[0], gather.inputs[1]
    dequantize = producer(restored, "DequantizeLinear")
    if dequantize is None or array_of(dequantize.inputs[0]) is None:
        return False
    codes, *rest = dequantize.inputs
    scale = array_of(rest[0])
    if codes is None or scale is None or scale.size != 1 or scale.ndim:
        return False
    rows = gather.outputs[0]
    picked = ir.Value(
        name=f"{rows.name}/codes",
        type=ir.TensorType(codes.dtype or ir.DataType.INT8),
        shape=None if rows.shape is None else rows.shape.copy(),
    )
    axis = int_attribute(gather, "axis", 0)
    lookup = ir.node("Gather", [codes, ids], {"axis": axis}, outputs=[picked], name=gather.name)
    made = ir.node("DequantizeLinear", [picked, *rest], name=f"{dequantize.name}/rows")
    insert_before(gather, [lookup, made])
    replace_value(rows, made.outputs[0])
    remove_dead(gather)
    return True
