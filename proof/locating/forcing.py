"""The candidate in pieces, each run from the reference's values: no error goes any further."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ...graph.model import Graph
from ...graph.tensors import Array
from .landmarks import Landmark
from .pairing import Pair

_SUFFIX = "/of the reference"

_MOVING = frozenset(
    {"Cast", "DequantizeLinear", "Expand", "Flatten", "Identity", "QuantizeLinear", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_WITH_CONSTANT = frozenset({"Add", "Div", "Mul", "Sub"})


def in_pieces(
    graph: Graph, cuts: Mapping[int, Pair], marks: list[Landmark]
) -> tuple[Graph, dict[str, Array]]:
    """Cut a graph at values that are paired with landmarks.

    Readers of such a value get the landmark instead, as an input of its own; the value itself is
    still computed, from the landmarks before it.

    Args:
        graph: of the candidate; it is not changed.
        cuts: landmark -> the value, each of another landmark.
        marks: all landmarks.

    Returns:
        The graph in pieces, and feeds for its new inputs.
    """
    clone = graph.clone()
    values = ir.convenience.create_value_mapping(clone.model.graph)
    forced: dict[str, Array] = {}
    for index, pair in cuts.items():
        given = _cut(clone.model.graph, values[pair.value], pair)
        array = pair.layout.invert(marks[index].array, pair.shape)
        forced[given] = np.ascontiguousarray(array, pair.dtype)
    return clone, forced


def echoes(graph: Graph, name: str, *, sure: bool) -> frozenset[str]:
    """Values that hold what the named one holds, because they are made of it.

    Behind a cut these repeat the landmark, which says nothing about the candidate.

    Args:
        graph: of the candidate.
        name: of the value that is cut.
        sure: whether it is the counterpart beyond doubt; then all that is made of it is out. Else
            the counterpart may be one of them, and those alone are out that merely move the value
            about or combine it with a constant.
    """
    values = ir.convenience.create_value_mapping(graph.model.graph)
    found, pending = set[str](), [values[name]]
    while pending:
        for node, _ in pending.pop().uses():
            if not sure and not _repeats(node):
                continue
            for output in node.outputs:
                if output.name and output.name not in found:
                    found.add(output.name)
                    pending.append(output)
    return frozenset(found)


def _repeats(node: ir.Node) -> bool:
    if node.op_type in _MOVING:
        return True
    constants = sum(value is not None and _is_constant(value) for value in node.inputs)
    return node.op_type in _WITH_CONSTANT and constants == 1


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _cut(graph: ir.Graph, value: ir.Value, pair: Pair) -> str:
    name = f"{value.name}{_SUFFIX}"
    given = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(pair.dtype)),
        shape=ir.Shape([f"{name}.{axis}" for axis in range(len(pair.shape))]),
    )
    graph.inputs.append(given)
    for node, place in tuple(value.uses()):
        node.replace_input_with(place, given)
    return name
