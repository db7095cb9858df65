"""Embedding tables that are worth having in INT8: large ones that are only looked up."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ...graph.history import Refusal
from ..constants import int_attribute

RULE = "quantise-table"
MIN_ELEMENTS = 1 << 20
"""Smaller tables stay float: positions and segments cost accuracy and hold next to nothing."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A look-up that will read INT8 codes.

    Attributes:
        node: name of the Gather.
        output: the tensor it writes, which identifies it.
        weight: the constant whose rows it picks.
        rows: tokens in the vocabulary.
        columns: numbers a token.
    """

    node: str
    output: str
    weight: str
    rows: int
    columns: int


def find_tables(
    graph: ir.Graph, quantized: Collection[str]
) -> tuple[tuple[Table, ...], tuple[Refusal, ...]]:
    """Look at every Gather of rows of a float matrix.

    A table that linears read as well (tied weights) is quantised twice when they are quantised
    too, each copy of one byte an element. Where one of them stays float, the codes would come on
    top of the float table, so it is left alone.

    Args:
        graph: that is looked at.
        quantized: tensors written by the linears that will be quantised.

    Returns:
        The look-ups to quantise, and the others with the reason.
    """
    found: list[Table] = []
    refusals: list[Refusal] = []
    for node in graph:
        tensor = _matrix(node)
        if tensor is None:
            continue
        rows, columns = (int(size) for size in tensor.shape.numpy())
        reason = _refuse(node, rows * columns, quantized)
        name = node.name or str(node.outputs[0].name)
        if reason is not None:
            refusals.append(Refusal(RULE, name, reason))
            continue
        assert node.inputs[0] is not None
        output, weight = str(node.outputs[0].name), str(node.inputs[0].name)
        found.append(Table(node=name, output=output, weight=weight, rows=rows, columns=columns))
    return tuple(found), tuple(refusals)


def _matrix(node: ir.Node) -> ir.TensorProtocol | None:
    if node.op_type != "Gather" or node.domain or int_attribute(node, "axis", 0) != 0:
        return None
    data = node.inputs[0]
    tensor = None if data is None else ir.convenience.get_const_tensor(data)
    if tensor is None or tensor.dtype not in _FLOATS or len(tensor.shape) != 2:
        return None
    return tensor


def _refuse(gather: ir.Node, elements: int, quantized: Collection[str]) -> str | None:
    table, rows = gather.inputs[0], gather.outputs[0]
    assert table is not None
    if elements < MIN_ELEMENTS:
        return f"{elements:,} elements: fewer than {MIN_ELEMENTS:,}, not worth the error"
    if table.is_graph_input() or table.is_graph_output():
        return "the table is also an input or output of the graph"
    if any(usage.node.op_type == "RotaryEmbedding" for usage in rows.uses()):
        return "it holds angles, not embeddings"
    for reader in _readers(table):
        is_lookup = reader.op_type == "Gather" and int_attribute(reader, "axis", 0) == 0
        if not is_lookup and reader.outputs[0].name not in quantized:
            return (
                f"{reader.op_type} {reader.name or reader.outputs[0].name} reads the table in "
                "float as well, so codes would come on top of it"
            )
    return None


def _readers(table: ir.Value) -> Iterator[ir.Node]:
    """Consumers, looking through Transposes."""
    for usage in table.uses():
        output = usage.node.outputs[0]
        if usage.node.op_type == "Transpose" and output.uses() and not output.is_graph_output():
            yield from _readers(output)
        else:
            yield usage.node
