"""The linears around an attention, found by how they hang together, whatever their names."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_LINEARS = ("MatMul", "Gemm")
_MOVES = frozenset(
    {"Cast", "Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
"""They move elements."""

_BESIDE = _MOVES | {"Add", "LayerNormalization", "Mul", "RMSNormalization", "RotaryEmbedding"}
"""They stand between a projection and its attention: bias, scale, norm of a head, rotation."""

_QUERY_KEY_VALUE = slice(0, 3)


def attention_projections(graph: ir.Graph) -> frozenset[str]:
    """Outputs of the MatMul and Gemm nodes that feed an Attention or read what it answers.

    Args:
        graph: in the canonical dialect, with Attention nodes.
    """
    found: set[str] = set()
    for node in graph:
        if node.op_type != "Attention" or node.domain:
            continue
        sources = [value for value in node.inputs[_QUERY_KEY_VALUE] if value is not None]
        found.update(_feeding(sources))
        found.update(_reading(node.outputs[0]))
    return frozenset(found)


def _feeding(values: list[ir.Value]) -> Iterator[str]:
    """Linears whose result reaches these values unmixed with that of another branch."""
    seen: set[ir.Value] = set()
    while values:
        value = values.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        if node.op_type in _LINEARS and not node.domain:
            yield str(node.outputs[0].name)
        elif node.op_type in _BESIDE and not node.domain and not _is_residual(node):
            values += [item for item in node.inputs if item is not None]


def _reading(value: ir.Value) -> Iterator[str]:
    """Linears that read this value, moved or not."""
    values = [value]
    while values:
        for node in values.pop().consumers():
            if node.domain:
                continue
            if node.op_type in _LINEARS:
                yield str(node.outputs[0].name)
            elif node.op_type in _MOVES:
                values += node.outputs


def _is_residual(node: ir.Node) -> bool:
    """Whether two branches meet here; a bias and a scale are constants."""
    made = [item for item in node.inputs if item is not None and item.producer() is not None]
    branches = [item for item in made if item.producer().op_type != "Constant"]  # type: ignore[union-attr]
    return node.op_type == "Add" and len(branches) > 1
