"""Which layer of the model a node belongs to.

Node names begin with the path of the PyTorch module they came from; the first number in it is the
layer. What passes add between modules belongs to the layer that reads it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from .onnx_outline import Outline, OutlineNode

_NUMBERED = re.compile(r"^((?:[^./]+\.)*?[^./]+)\.(\d+)(?=[./]|$)")


@dataclass(frozen=True, order=True)
class Layer:
    """A repeated part of the model, such as ``encoder.layer`` 3."""

    stack: str
    index: int


@dataclass(frozen=True)
class Part:
    """A layer, or what stands outside all of them, with its nodes in order."""

    layer: Layer | None
    nodes: tuple[OutlineNode, ...]


def layer_of(name: str) -> Layer | None:
    """The layer that a node's name says, None when it says none."""
    found = _NUMBERED.match(name)
    return Layer(found[1], int(found[2])) if found else None


def within_layer(name: str) -> str:
    """The module of a node inside its layer, for example ``attention.self.query``."""
    module = name.partition("/")[0]
    found = _NUMBERED.match(module)
    return module[found.end() :].strip(".") if found else module


def assign_layers(outline: Outline) -> dict[str, Layer | None]:
    """The layer of each node, by the name of its first output."""
    users: dict[str, list[OutlineNode]] = defaultdict(list)
    for node in outline.nodes:
        for value in node.inputs:
            users[value].append(node)
    found: dict[str, Layer | None] = {}
    for node in reversed(outline.nodes):
        layer = layer_of(node.name)
        if layer is None and "." not in node.name:
            readers = {found[user.outputs[0]] for name in node.outputs for user in users[name]}
            layer = readers.pop() if len(readers) == 1 else None
        found[node.outputs[0]] = layer
    return found


def parts_of(outline: Outline) -> tuple[Part, ...]:
    """What stands before the layers, the layers in order, and what stands behind them."""
    layers = assign_layers(outline)
    before: list[OutlineNode] = []
    behind: list[OutlineNode] = []
    inside: dict[Layer, list[OutlineNode]] = defaultdict(list)
    for node in outline.nodes:
        layer = layers[node.outputs[0]]
        if layer is not None:
            inside[layer].append(node)
        else:
            (behind if _reads_layers(node, layers, behind) else before).append(node)
    parts = [Part(None, tuple(before))] if before else []
    stacks = list(dict.fromkeys(layer.stack for layer in inside))
    order = sorted(inside, key=lambda layer: (stacks.index(layer.stack), layer.index))
    parts += [Part(layer, tuple(inside[layer])) for layer in order]
    return (*parts, Part(None, tuple(behind))) if behind else tuple(parts)


def _reads_layers(
    node: OutlineNode,
    layers: Mapping[str, Layer | None],
    behind: list[OutlineNode],
) -> bool:
    later = {name for other in behind for name in other.outputs}
    return any(layers.get(value) is not None or value in later for value in node.inputs)
