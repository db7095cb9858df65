"""Turn computed shapes into constants, and what is left of them into sizes of graph inputs.

    Reshape(x, Concat(Shape(x)[0], Shape(x)[1], [12], [32]))  ->  Reshape(x, [0, 0, 12, 32])
    Reshape(x, <the shape x has>)                             ->  x
    Expand(x, <any arithmetic on shapes>)                     ->  Expand(x, Concat(Shape(ids), ..))

The first two remove shape arithmetic from blocks. The third lets equal sizes of all layers be
shared and keeps what only needs a size from depending on the network before it.

Source: https://onnx.ai/onnx/operators/onnx__Reshape.html (0 copies the input's dim)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...graph.tensors import Dim
from ..base import Pass, PassResult, result
from ..constants import array_of, initializer, remove_dead
from ..shapes.analysis import analyse
from ..shapes.facts import Fact, Facts, Shape
from ..shapes.writing import SizeWriter


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Make Reshape targets constant, and write every other size from the inputs that have it."""

    name = "fold-shapes"
    min_opset = 15  # Shape with start and end

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        facts = analyse(model)
        writer = SizeWriter(model.graph, facts)
        replaced: list[ir.Value] = []
        for node in tuple(model.graph):
            if node.op_type == "Reshape" and not node.domain:
                replaced += _fold_target(model.graph, node, facts)
            replaced += _rewrite_sizes(model.graph, node, facts, writer)
        producers = (value.producer() for value in replaced)
        remove_dead(*(node for node in producers if node is not None))
        return result(model, len(replaced))


def _fold_target(graph: ir.Graph, node: ir.Node, facts: Facts) -> list[ir.Value]:
    """Give a Reshape a constant target; the value it read before, if it got one."""
    old = node.inputs[1] if len(node.inputs) == 2 else None
    if old is None or array_of(old) is not None:
        return []
    dims = constant_target(facts[node.inputs[0]].shape, facts[node.outputs[0]].shape)
    if dims is None:
        return []
    name = f"{node.outputs[0].name}.shape"
    node.replace_input_with(1, initializer(graph, name, np.array(dims, np.int64)))
    node.attributes.pop("allowzero", None)
    return [old]


def constant_target(source: Shape | None, wanted: Shape | None) -> list[int] | None:
    """A target of static sizes, zeros that copy, and at most one -1; None when impossible.

    A cache may have length 0, so a size that is copied is written as 0 rather than -1: with a 0
    among the others, -1 has no answer.
    """
    if source is None or wanted is None:
        return None
    dims: list[int] = []
    for axis, dim in enumerate(wanted):
        if dim is None or dim == 0:  # a 0 would read as "copy" without allowzero
            return None
        if isinstance(dim, int):
            dims.append(dim)
        else:
            dims.append(0 if axis < len(source) and source[axis] == dim else -1)
    return dims if dims.count(-1) <= 1 else None


def _rewrite_sizes(
    graph: ir.Graph, node: ir.Node, facts: Facts, writer: SizeWriter
) -> list[ir.Value]:
    """Rewrite what a node reads of shape arithmetic, unless it is arithmetic itself."""
    if node.outputs and _known(facts[node.outputs[0]]) is not None:
        return []
    replaced: list[ir.Value] = []
    for place, value in enumerate(node.inputs):
        if value is None or value.producer() is None:
            continue
        new = _written(graph, value, facts[value], writer)
        if new is not None:
            node.replace_input_with(place, new)
            replaced.append(value)
    return replaced


def _written(graph: ir.Graph, value: ir.Value, fact: Fact, writer: SizeWriter) -> ir.Value | None:
    content = _known(fact)
    if content is None or fact.shape is None or fact.dtype is None:
        return None
    if all(isinstance(item, int) for item in content):
        array = np.array(content, fact.dtype.numpy()).reshape([len(content)] * len(fact.shape))
        return initializer(graph, f"{value.name}.folded", array)
    if fact.dtype != ir.DataType.INT64:
        return None
    return writer.rewritten(value, content, scalar=not fact.shape)


def _known(fact: Fact) -> tuple[Dim, ...] | None:
    """The content when every element is known."""
    found = tuple(item for item in fact.content or () if item is not None)
    return found if fact.content is not None and len(found) == len(fact.content) else None
