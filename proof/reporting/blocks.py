"""One layer of a graph as a few blocks: linears with their biases, chains of moves, the rest."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from .layers import within_layer
from .onnx_outline import Outline, OutlineNode
from .operators import kind_of

_INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul", "QGemm")
_LINEAR = (*_INTEGER, "MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "DynamicQuantizeMatMul")


@dataclass
class Block:
    """One box of the picture.

    Attributes:
        kind: key of an operator kind.
        title: what it is.
        detail: sizes and precision, may be empty.
        thin: whether it is glue that deserves less attention.
        inputs: values from outside of the block that are not constant.
        outputs: values it makes.
        nodes: how many nodes of the graph it stands for.
    """

    kind: str
    title: str
    detail: str
    thin: bool
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: int = 1


def blocks_of(nodes: tuple[OutlineNode, ...], outline: Outline) -> list[Block]:
    """The blocks of a layer, in topological order."""
    users: dict[str, int] = defaultdict(int)
    for node in outline.nodes:
        for value in node.inputs:
            users[value] += 1
    blocks: list[Block] = []
    maker: dict[str, Block] = {}
    for node in nodes:
        varying = [name for name in node.inputs if name and name not in outline.constants]
        last = maker.get(varying[0]) if len(varying) == 1 else None
        if last is not None and users[varying[0]] == 1 and _joins(node, last):
            last.outputs = list(node.outputs)
            last.nodes += 1
            if last.thin and node.operator not in last.title:
                last.title += f", {node.operator}"
        else:
            last = _block(node, outline, varying)
            blocks.append(last)
        maker.update(dict.fromkeys(node.outputs, last))
    return blocks


def _joins(node: OutlineNode, last: Block) -> bool:
    """A bias joins its linear, a move the moves before it."""
    if last.kind == "linear":
        return node.operator == "Add" and last.nodes == 1
    return last.kind == "shape" and kind_of(node.operator).key == "shape"


def _block(node: OutlineNode, outline: Outline, varying: list[str]) -> Block:
    kind = kind_of(node.operator).key
    weights = [outline.constants[name] for name in node.inputs if name in outline.constants]
    matrix = next((dims for dims in weights if len(dims) == 2), None)
    title, detail, thin = node.operator, "", kind in ("shape", "quantise", "arithmetic")
    if node.operator in _LINEAR and matrix is not None:
        title = within_layer(node.name) or node.operator
        detail = f"{matrix[0]} → {matrix[1]}"
        detail += ", int8" if node.operator in _INTEGER else ""
    elif node.operator == "Add" and len(varying) == 2:
        title = "Add, residual"
    elif node.operator == "Mul" and len(varying) == 1:
        title = "Mul, by a constant"
    return Block(kind, title, detail, thin, list(dict.fromkeys(varying)), list(node.outputs))
