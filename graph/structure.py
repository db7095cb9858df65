"""Whether two graphs are the same but for the values of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import onnx_ir as ir

_FEW = 1024
"""Bytes of whole numbers that are compared: sizes and axes, not a table of positions."""


def difference(old: ir.Model, new: ir.Model) -> str | None:
    """The first difference of two graphs, as what was expected and got; None when there is none.

    Weights may differ in their values; whole numbers and truth values may not, because a compiler
    has taken them for sizes and axes.
    """
    pairs = zip_longest(_lines(old), _lines(new), fillvalue="nothing")
    return next((f"expected {a}, got {b}" for a, b in pairs if a != b), None)


def _lines(model: ir.Model) -> Iterator[str]:
    graph = model.graph
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            yield f"{kind} {value.name} {value.type} {value.shape}"
    for name, value in sorted(graph.initializers.items()):
        yield f"weight {name} {_tensor(value.const_value)}"
    for node in graph:
        inputs = ", ".join(value.name or "" if value else "" for value in node.inputs)
        attributes = " ".join(f"{name}={item.value}" for name, item in node.attributes.items())
        outputs = ", ".join(value.name or "" for value in node.outputs)
        yield f"node {node.op_type} ({inputs}) {attributes} -> {outputs}"


def _tensor(held: ir.TensorProtocol | None) -> str:
    if held is None:
        return "without a value"
    shape = ",".join(map(str, held.shape))
    is_weight = held.dtype.is_floating_point()
    values = "" if is_weight or held.nbytes > _FEW else f" {held.numpy().tolist()}"
    return f"{held.dtype.name}[{shape}]{values}"
