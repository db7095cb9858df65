"""Eight faults, each in one layer of a canonical graph: what goes wrong when models are converted.

All but the overflow change what the graph computes. The overflow leaves the function as it is:
weights are enlarged as far as float16 holds them, and what reads the products makes them small
again, which float32 bears and float16 does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fuselage.graph.model import Graph
from fuselage.passes.lowering.convert_precision import ConvertPrecision
from fuselage.passes.pipeline import PassPipeline

_LARGEST_WEIGHT = 60_000.0
"""Just within float16; sums of products with such weights are not."""


@dataclass(frozen=True)
class Fault:
    """What is planted.

    Attributes:
        name: as in the table.
        plant: changes a graph in one layer, which is counted from 0.
        layers: what the layer that is named must contain: ``{layer}`` stands for the number.
        half: whether it shows in float16 alone.
    """

    name: str
    plant: Callable[[ir.Graph, int], None]
    layers: tuple[str, ...]
    half: bool = False

    def at(self, layer: int) -> tuple[str, ...]:
        """What the layer that is named must contain."""
        return tuple(part.format(layer=layer) for part in self.layers)

    def planted(self, graph: Graph, layer: int) -> Graph:
        """A copy of the graph with the fault."""
        faulty = graph.clone()
        self.plant(faulty.model.graph, layer)
        faulty.model.graph.sort()
        if self.half:
            return PassPipeline((ConvertPrecision("float16"),)).run(faulty)
        return faulty


def _nth(graph: ir.Graph, operator: str, layer: int) -> ir.Node:
    return [node for node in graph if node.op_type == operator][layer]


def wrong_mask(graph: ir.Graph, layer: int) -> None:
    """A decoder's mask: no token sees those behind it."""
    attention = _nth(graph, "Attention", layer)
    attention.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)


def padding_leak(graph: ir.Graph, layer: int) -> None:
    """No mask: every token sees the padding."""
    _nth(graph, "Attention", layer).replace_input_with(3, None)


def swapped_heads(graph: ir.Graph, layer: int) -> None:
    """The first two heads of the answer change places."""
    attention = _nth(graph, "Attention", layer)
    heads, size = _heads(attention)
    order = np.arange(heads * size).reshape(heads, size)
    order[[0, 1]] = order[[1, 0]]
    answer = attention.outputs[0]
    users = tuple(answer.uses())
    picked = _pick(graph, answer, order, f"swapped_{layer}")
    for node, place in users:
        node.replace_input_with(place, picked)


def transposed_key(graph: ir.Graph, layer: int) -> None:
    """The key's heads and their channels change places: [heads, size] read as [size, heads]."""
    attention = _nth(graph, "Attention", layer)
    heads, size = _heads(attention)
    order = np.arange(heads * size).reshape(heads, size).T
    key = attention.inputs[1]
    assert key is not None
    attention.replace_input_with(1, _pick(graph, key, order, f"transposed_{layer}"))


def tanh_gelu(graph: ir.Graph, layer: int) -> None:
    """The approximation by tanh in place of erf."""
    gelu = _nth(graph, "Gelu", layer)
    gelu.attributes["approximate"] = ir.AttrString("approximate", "tanh")


def perturbed_weight(graph: ir.Graph, layer: int) -> None:
    """One of the weights behind a GELU is off by 1e-2."""
    product = _reader(_nth(graph, "Gelu", layer).outputs[0], "MatMul")
    _change(graph, product, 1, lambda weight: _bumped(weight, 1e-2))


def lost_positions(graph: ir.Graph, layer: int) -> None:
    """Every token stands at position 0; the layer makes no difference."""
    del layer
    tables = [
        node
        for node in graph
        if node.op_type == "Gather" and _is_weight(node.inputs[0]) and not _reads_tokens(node)
    ]
    gather = max(tables, key=lambda node: _rows(node.inputs[0]))
    index = gather.inputs[1]
    assert index is not None
    zero = _constant(graph, "position_zero", np.zeros((), np.int64))
    product = ir.node("Mul", [index, zero], name="lost_positions")
    graph.insert_before(gather, product)
    gather.replace_input_with(1, product.outputs[0])


def overflow(graph: ir.Graph, layer: int) -> None:
    """Values beyond 65504 in one layer, made small again behind the attention."""
    attention = _nth(graph, "Attention", layer)
    value = attention.inputs[2]
    assert value is not None
    linear = [(node, _weight_place(node)) for node in _linear(value)]
    largest = max(np.abs(_weight(node, place)).max() for node, place in linear)
    factor = np.float32(2.0 ** np.floor(np.log2(_LARGEST_WEIGHT / largest)))
    for node, place in linear:
        _change(graph, node, place, lambda weight: weight * factor)
    product = _reader(attention.outputs[0], "MatMul")
    _change(graph, product, 1, lambda weight: weight / factor)


_ATTENTION = ("layer.{layer}.attention",)

FAULTS: tuple[Fault, ...] = (
    Fault("wrong mask", wrong_mask, _ATTENTION),
    Fault("swapped heads", swapped_heads, _ATTENTION),
    Fault("tanh for erf GELU", tanh_gelu, ("layer.{layer}.intermediate",)),
    Fault("weight off by 1e-2", perturbed_weight, ("layer.{layer}.output.dense",)),
    Fault("fp16 overflow", overflow, _ATTENTION, half=True),
    Fault("transposed K", transposed_key, _ATTENTION),
    Fault("lost position ids", lost_positions, ("embeddings",)),
    Fault("padding leak", padding_leak, _ATTENTION),
)
"""All eight, as layers of BERT are called."""


def _heads(attention: ir.Node) -> tuple[int, int]:
    heads = attention.attributes["q_num_heads"].as_int()
    query = attention.inputs[0]
    assert query is not None
    assert query.shape is not None
    width = query.shape[-1]
    assert isinstance(width, int)
    return heads, width // heads


def _pick(graph: ir.Graph, value: ir.Value, order: NDArray[np.int64], name: str) -> ir.Value:
    """The channels of a value in another order."""
    index = _constant(graph, f"{name}.order", order.reshape(-1).astype(np.int64))
    node = ir.node("Gather", [value, index], {"axis": -1}, name=name)
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, node)
    picked = node.outputs[0]
    picked.name, picked.shape = f"{name}.values", value.shape
    assert value.dtype is not None
    picked.type = ir.TensorType(value.dtype)
    return picked


def _reader(value: ir.Value, operator: str) -> ir.Node:
    return next(node for node, _ in value.uses() if node.op_type == operator)


def _linear(value: ir.Value) -> list[ir.Node]:
    """The product and the sum that give a value; what they multiply and add are weights."""
    found: list[ir.Node] = []
    node = value.producer()
    while node is not None and node.op_type in ("Add", "MatMul"):
        found.append(node)
        if node.op_type == "MatMul":
            return found
        node = next(v.producer() for v in node.inputs if v is not None and not _is_weight(v))
    raise ValueError(f"{value.name}: expected a linear layer")


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.is_initializer()


def _reads_tokens(gather: ir.Node) -> bool:
    index = gather.inputs[1]
    return index is not None and index.is_graph_input()


def _rows(table: ir.Value | None) -> int:
    assert table is not None
    assert table.const_value is not None
    return int(table.const_value.shape.numpy()[0])


def _bumped(weight: NDArray[np.float32], by: float) -> NDArray[np.float32]:
    changed = weight.copy()
    changed[3, 5] += np.float32(by)
    return changed


def _change(
    graph: ir.Graph,
    node: ir.Node,
    place: int,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> None:
    """Give one node a weight of its own; others that share it keep theirs."""
    weight = node.inputs[place]
    assert weight is not None
    changed = change(_weight(node, place)).astype(np.float32)
    node.replace_input_with(place, _constant(graph, f"{weight.name}.planted", changed))


def _weight(node: ir.Node, place: int) -> NDArray[np.float32]:
    weight = node.inputs[place]
    assert weight is not None
    assert weight.const_value is not None
    return weight.const_value.numpy()


def _weight_place(node: ir.Node) -> int:
    return next(place for place, operand in enumerate(node.inputs) if _is_weight(operand))


def _constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value
