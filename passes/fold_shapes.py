"""Turn computed shapes into constants.

    Reshape(x, Concat(Shape(x)[0], Shape(x)[1], [12], [32]))  ->  Reshape(x, [0, 0, 12, 32])
    Shape(anything of dim `sequence`)                          ->  Shape(input that has the dim)

The first removes shape arithmetic from blocks, the second lets equal sizes be shared and keeps a
subgraph that only needs a size from depending on the whole network. Both read the symbolic dims of
shape inference; two dims are equal when they carry the same name.

Source: https://onnx.ai/onnx/operators/onnx__Reshape.html (0 copies the input's dim)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .base import Pass, PassResult, result
from .constants import array_of, initializer, insert_before, int_attribute, replace_value
from .rewrite import remove_dead


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Make Reshape targets constant and read sizes from graph inputs. Needs inferred shapes."""

    name = "fold-shapes"
    min_opset = 15  # Shape with start and end

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        sources = _dim_sources(model.graph)
        rewrites = 0
        for node in tuple(model.graph):
            if node.graph is None or node.domain:
                continue
            if node.op_type == "Reshape":
                rewrites += _fold_reshape(model.graph, node)
            elif node.op_type == "Shape":
                rewrites += _fold_shape(model.graph, node, sources)
        return result(model, rewrites)


def _dim_sources(graph: ir.Graph) -> dict[str, tuple[ir.Value, int]]:
    """Dim name -> the first graph input and axis that has it."""
    sources: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape or ()):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                sources.setdefault(str(dim.value), (value, axis))
    return sources


def _fold_reshape(graph: ir.Graph, node: ir.Node) -> int:
    data, target = node.inputs[0], node.inputs[1]
    if data is None or target is None or data.shape is None or node.outputs[0].shape is None:
        return 0
    if array_of(target) is not None:
        return 0
    dims = _constant_target(list(data.shape), list(node.outputs[0].shape))
    if dims is None:
        return 0
    name = f"{node.outputs[0].name}.shape"
    node.replace_input_with(1, initializer(graph, name, np.array(dims, np.int64)))
    node.attributes.pop("allowzero", None)
    producer = target.producer()
    if producer is not None:
        remove_dead(producer)
    return 1


def _constant_target(
    source: Sequence[int | ir.SymbolicDim], wanted: Sequence[int | ir.SymbolicDim]
) -> list[int] | None:
    """A target of static sizes, zeros that copy, and at most one -1; None when impossible."""
    dims: list[int] = []
    for axis, dim in enumerate(wanted):
        if isinstance(dim, int):
            if dim == 0:  # would read as "copy" without allowzero
                return None
            dims.append(dim)
        elif axis < len(source) and _same(source[axis], dim):
            dims.append(0)
        else:
            dims.append(-1)
    return dims if dims.count(-1) <= 1 else None


def _same(left: int | ir.SymbolicDim, right: ir.SymbolicDim) -> bool:
    return isinstance(left, ir.SymbolicDim) and left.value is not None and left == right


def _fold_shape(graph: ir.Graph, node: ir.Node, sources: dict[str, tuple[ir.Value, int]]) -> int:
    value = node.inputs[0]
    if value is None or value.shape is None:
        return 0
    rank = len(value.shape)
    start, end, _ = slice(
        int_attribute(node, "start", 0), int_attribute(node, "end", rank)
    ).indices(rank)
    dims = list(value.shape)[start:end]
    if all(isinstance(dim, int) for dim in dims):
        folded = initializer(graph, f"{node.outputs[0].name}.folded", np.array(dims, np.int64))
        replace_value(node.outputs[0], folded)
        remove_dead(node)
        return 1
    found = sources.get(str(dims[0])) if len(dims) == 1 else None
    if found is None or found[0] is value:
        return 0
    source, axis = found
    tape = ir.tape.Tape()
    size = tape.op("Shape", [source], {"start": axis, "end": axis + 1})
    insert_before(node, tape.nodes)
    replace_value(node.outputs[0], size)
    remove_dead(node)
    return 1
