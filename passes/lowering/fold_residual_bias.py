"""Move the bias of a residual branch into the LayerNorm the residual comes from.

    r = LayerNorm(.., beta);  h = (a W + b) + r;  others = r V + c
      ->  r' = LayerNorm(.., beta + b);  h = a W + r';  others = r' V + (c - b V)

because r' = r + b everywhere: the residual sum keeps its value with the bias already inside, and
every other product subtracts what was added. Two Adds a block disappear in post-LN encoders (BERT
and its relatives): 1 % of MiniLM's time on ORT CPU at [1, 128], up to 1 % at [8, 128]
(benchmarks/ablation.py). Refused when something else reads r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...graph.history import Refusal
from ...graph.tensors import Array
from ..base import Pass, PassResult, result
from ..constants import array_of, initializer, producer, remove_dead, replace_value, sole_consumer


@dataclass(frozen=True)
class _Branch:
    """``add_residual = (product + bias) + norm``."""

    add_bias: ir.Node
    bias: Array
    norm: ir.Node
    readers: tuple[tuple[ir.Node, ir.Node], ...]  # (MatMul, its bias Add) that read norm


@dataclass(frozen=True)
class FoldResidualBias(Pass):
    """Fold the biases of residual branches of post-LN blocks. float32 and float64 graphs only."""

    name = "fold-residual-bias"
    min_opset = 17

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite the main graph."""
        rewrites, refusals = 0, []
        for node in tuple(model.graph):
            found = _branch(node) if node.graph is not None and node.op_type == "Add" else None
            if isinstance(found, str):
                refusals.append(Refusal(self.name, node.name or "?", found))
            elif found is not None:
                _fold(model.graph, found)
                rewrites += 1
        return result(model, rewrites, tuple(refusals))


def _branch(residual: ir.Node) -> _Branch | str | None:
    """The branch, the reason to decline it, or None when the node is no residual sum at all."""
    for branch, skip in ((0, 1), (1, 0)):
        add_bias = producer(residual.inputs[branch], "Add")
        norm = producer(residual.inputs[skip], "LayerNormalization")
        if add_bias is None or norm is None or producer(add_bias.inputs[0], "MatMul") is None:
            continue
        bias = array_of(add_bias.inputs[1])
        if bias is None or bias.ndim != 1:
            continue
        if bias.dtype not in (np.float32, np.float64):
            return f"the bias is {bias.dtype}, where the subtraction would lose digits"
        if sole_consumer(add_bias.outputs[0], "Add") is None:
            return "the biased product has other readers"
        return _with_readers(residual, add_bias, bias, norm)
    return None


def _with_readers(
    residual: ir.Node, add_bias: ir.Node, bias: Array, norm: ir.Node
) -> _Branch | str:
    beta = array_of(norm.inputs[2]) if len(norm.inputs) > 2 else None
    if beta is None or beta.shape != bias.shape:
        got = "no constant bias" if beta is None else f"a bias of shape {list(beta.shape)}"
        return f"the LayerNormalization has {got}, expected {list(bias.shape)}"
    if norm.outputs[0].is_graph_output():
        return f"{norm.outputs[0].name!r} is a graph output"
    readers = []
    for use in norm.outputs[0].uses():
        if use.node is residual:
            continue
        add = _affine_reader(use.node, use.idx)
        if add is None:
            return f"{use.node.op_type} {use.node.name!r} reads the residual too"
        if add is add_bias:
            return "the branch is one product of the residual, which would have to subtract itself"
        readers.append((use.node, add))
    return _Branch(add_bias, bias, norm, tuple(readers))


def _affine_reader(node: ir.Node, index: int) -> ir.Node | None:
    """The bias Add behind ``MatMul(r, constant)``."""
    weight = array_of(node.inputs[1]) if node.op_type == "MatMul" and index == 0 else None
    if weight is None or weight.ndim != 2:
        return None
    add = sole_consumer(node.outputs[0], "Add")
    bias = None if add is None else array_of(add.inputs[1])
    return add if bias is not None and bias.ndim == 1 else None


def _fold(graph: ir.Graph, branch: _Branch) -> None:
    shift = branch.bias.astype(np.float64)
    _shift_constant(graph, branch.norm, 2, shift)
    for product, add in branch.readers:
        weight = array_of(product.inputs[1])
        assert weight is not None
        _shift_constant(graph, add, 1, -(shift @ weight.astype(np.float64)))
    product_value = branch.add_bias.inputs[0]
    assert product_value is not None
    replace_value(branch.add_bias.outputs[0], product_value)
    remove_dead(branch.add_bias)


def _shift_constant(graph: ir.Graph, node: ir.Node, index: int, shift: NDArray[np.float64]) -> None:
    value = node.inputs[index]
    old = array_of(value)
    assert value is not None
    assert old is not None
    new = (old.astype(np.float64) + shift).astype(old.dtype)
    node.replace_input_with(index, initializer(graph, f"{value.name}.shifted", new))
