"""Let zero points do what an Add in front of Q does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..base import Pass, PassResult, result
from ..constants import array_of, initializer, producer, scalar_of
from .fuse_integer_matmul import FLIPPED_CODES
from .linears import drop_unread


@dataclass(frozen=True)
class FoldActivationShifts(Pass):
    """Take a number of whole steps that is added in front of Q into its zero point.

        Q(x + k * s, zero = 128)  ->  Q(x, zero = 128 + k)

    DQ keeps its own zero point: what it restores is the shifted tensor, which is what the linears
    expect. For uint8 codes as ``lower-activations-uint8`` makes them, on ``ort-cpu`` alone.
    """

    name: ClassVar[str] = "fold-activation-shifts"
    min_opset: ClassVar[int] = 13

    @property
    def tolerance(self) -> float:
        """A sum that is not rounded any more may fall to the other side of a step."""
        return FLIPPED_CODES

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        nodes = [node for node in model.graph if node.op_type == "QuantizeLinear"]
        return result(model, sum(_fold(model.graph, node) for node in nodes if not node.domain))


def _fold(graph: ir.Graph, node: ir.Node) -> bool:
    x = node.inputs[0]
    add = producer(x, "Add")
    if x is None or add is None or len(x.uses()) != 1 or x.is_graph_output():
        return False
    shift, step = _shift_of(add.inputs[1]), scalar_of(node.inputs[1])
    zero = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if shift is None or step is None or zero is None or zero.dtype != np.uint8 or zero.size != 1:
        return False
    steps = round(shift / step)
    moved = int(zero.reshape(())) + steps
    # The product of steps and scale was rounded to float32 once: 1e-5 of a step at most.
    if abs(shift / step - steps) > 1e-3 or not 0 <= moved <= 255:
        return False
    constant = add.inputs[1]
    assert constant is not None
    name = f"{node.outputs[0].name}/zero_point_shifted"
    node.replace_input_with(0, add.inputs[0])
    node.replace_input_with(2, initializer(graph, name, np.full(zero.shape, moved, np.uint8)))
    graph.remove(add, safe=True)
    drop_unread(graph, constant)
    return True


def _shift_of(constant: ir.Value | None) -> float | None:
    """The one number that is added to every channel, or None."""
    array = array_of(constant)
    if array is None or array.ndim > 1 or array.size == 0 or (array != array.flat[0]).any():
        return None
    return float(array.flat[0])
