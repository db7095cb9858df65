"""One layer of a graph as a few blocks: linears with their biases, chains of moves, the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .layers import within_layer
from .onnx_outline import Outline, OutlineNode
from .operators import kind_of

_INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul", "QGemm")
_LINEAR = (*_INTEGER, "MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "DynamicQuantizeMatMul")


_MOVES = ("shape", "arithmetic")
_RESIDUAL = "Add, residual"
_NAMED = 3
"""Operators of a chain that its box names."""


@dataclass
class Block:
    """One box of the picture.

    Attributes:
        kind: key of an operator kind.
        title: what it is.
        detail: sizes and precision, may be empty.
        thin: whether it is glue that deserves less attention.
        inputs: values on the way from the layer's input that it reads.
        outputs: values it makes.
        nodes: how many nodes of the graph it stands for.
        aside: whether it also reads what does not come from the layer's input, such as a mask.
    """

    kind: str
    title: str
    detail: str
    thin: bool
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    nodes: int = 1
    aside: bool = False


def blocks_of(nodes: Sequence[OutlineNode], outline: Outline) -> list[Block]:
    """The blocks between the input of a layer and its output, in topological order.

    What is computed beside that way, such as masks and angles, is left out; blocks that read it are
    `aside`. Biases join their linears, chains of small operators one another.
    """
    blocks = [_block(node, outline) for node in nodes]
    blocks = _on_the_way(blocks)
    readers = Counter(name for node in outline.nodes for name in node.inputs)
    joined: list[Block] = []
    maker: dict[str, Block] = {}
    for block in blocks:
        last = maker.get(block.inputs[0]) if len(block.inputs) == 1 else None
        if last is not None and readers[block.inputs[0]] == 1 and _joins(block, last):
            _join(block, last)
            block = last
        else:
            joined.append(block)
        maker.update(dict.fromkeys(block.outputs, block))
    return joined


def main_input(blocks: Sequence[Block]) -> str:
    """The value from outside that most matrix products, norms and residuals read."""
    made = {name for block in blocks for name in block.outputs}
    outside = [(block, name) for block in blocks for name in block.inputs if name not in made]
    votes = Counter(
        name
        for block, name in outside
        if block.kind in ("linear", "norm", "quantise") or block.title == _RESIDUAL
    )
    if votes:
        return votes.most_common(1)[0][0]
    return outside[0][1] if outside else ""


def _on_the_way(blocks: list[Block]) -> list[Block]:
    known = {main_input(blocks)}
    kept = []
    for block in blocks:
        inner = [name for name in block.inputs if name in known]
        if not inner:
            continue
        block.aside = len(inner) < len(block.inputs)
        block.inputs = inner
        known.update(block.outputs)
        kept.append(block)
    return kept


def _joins(block: Block, last: Block) -> bool:
    """A bias joins its linear, a small operator those before it."""
    if block.aside or last.aside:
        return False
    if last.kind == "linear":
        return block.title == "Add" and last.nodes == 1
    return block.kind in _MOVES and last.kind in _MOVES and last.title != _RESIDUAL


def _join(block: Block, last: Block) -> None:
    last.outputs = block.outputs
    last.nodes += block.nodes
    if last.thin:
        words = [word for word in last.title.split(", ") if word != block.title]
        last.title = ", ".join([*words, block.title][-_NAMED:])


def _block(node: OutlineNode, outline: Outline) -> Block:
    kind = kind_of(node.operator).key
    varying = [name for name in node.inputs if name and name not in outline.constants]
    weights = [outline.constants[name] for name in node.inputs if name in outline.constants]
    matrix = next((dims for dims in weights if len(dims) == 2), None)
    title, detail = node.operator, ""
    if node.operator in _LINEAR and weights:
        title = within_layer(node.name) or node.operator
        sizes = [f"{matrix[0]} → {matrix[1]}"] if matrix is not None else []
        detail = ", ".join(sizes + (["int8"] if node.operator in _INTEGER else []))
    elif node.operator == "Add" and len(varying) == 2:
        title = _RESIDUAL
    return Block(
        kind=kind,
        title=title,
        detail=detail,
        thin=kind in (*_MOVES, "quantise"),
        inputs=list(dict.fromkeys(varying)),
        outputs=list(node.outputs),
    )
