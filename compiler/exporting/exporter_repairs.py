"""Repair what the PyTorch exporter emits and ONNX Runtime then refuses or reads in another way."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ...passes.masks.soften import soften

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata key under which the exporter keeps the path of modules a node came from."""


def repair(model: ir.Model) -> None:
    """Apply every repair in place."""
    _soften_masks(model)
    _expand_rotary_caches(model)


def _soften_masks(model: ir.Model) -> None:
    """Masks become additive with finite fills: what they say stays, the passes find it out later.

    What a boolean mask means for a row without any key is left open by the operator, and ONNX
    Runtime, PyTorch's sdpa and eager attention differ.
    """
    softened: dict[ir.Value, ir.Value | None] = {}
    for node in tuple(model.graph):
        mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
        if mask is None:
            continue
        if mask not in softened:
            softened[mask] = soften(model.graph, mask, ir.DataType.FLOAT)
        new = softened[mask]
        if new is None or new is mask:
            continue
        producer = new.producer()
        assert producer is not None
        producer.metadata_props.update(node.metadata_props)
        node.replace_input_with(3, new)


def _expand_rotary_caches(model: ir.Model) -> None:
    """Caches of cos and sin with batch 1 are expanded to x's, as RotaryEmbedding-23 asks."""
    expanded: dict[ir.Value, ir.Value] = {}
    for node in tuple(model.graph):
        if node.op_type != "RotaryEmbedding" or len(node.inputs) != 3:
            continue
        x = node.inputs[0]
        for position in (1, 2):
            cache = node.inputs[position]
            if x is None or cache is None or not _has_batch_of_one(cache):
                continue
            if cache not in expanded:
                expanded[cache] = _expand(model, node, x, cache)
            node.replace_input_with(position, expanded[cache])


def _has_batch_of_one(cache: ir.Value) -> bool:
    producer = cache.producer()
    if cache.shape is None and producer is not None and producer.op_type in ("Cos", "Sin"):
        # The exporter leaves these two untyped; they have the type of their input.
        angles = producer.inputs[0]
        assert angles is not None
        assert angles.dtype is not None
        cache.dtype, cache.shape = angles.dtype, angles.shape
    return cache.shape is not None and cache.shape[0] == 1


def _expand(model: ir.Model, reader: ir.Node, x: ir.Value, cache: ir.Value) -> ir.Value:
    ones = _constant(model, "rotary_ones", np.ones(2, np.int64))
    vector = ir.Shape([1])
    batch = _insert(reader, "Shape", [x], ir.DataType.INT64, vector, start=0, end=1)
    sizes = _insert(reader, "Concat", [batch, ones], ir.DataType.INT64, ir.Shape([3]), axis=0)
    assert x.shape is not None
    assert cache.shape is not None
    assert cache.dtype is not None
    shape = ir.Shape([x.shape[0], *cache.shape[1:]])
    return _insert(reader, "Expand", [cache, sizes], cache.dtype, shape)


def _insert(
    reader: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    dtype: ir.DataType,
    shape: ir.Shape | None,
    **attributes: int,
) -> ir.Value:
    """A new node before the one that reads it, of the same module."""
    node = ir.node(op_type, inputs, attributes, metadata_props=dict(reader.metadata_props))
    output = node.outputs[0]
    output.name = f"{inputs[0].name}_{op_type.lower()}"
    output.dtype = dtype
    output.shape = shape
    graph = reader.graph
    assert graph is not None
    graph.insert_before(reader, node)
    return output


def _constant(model: ir.Model, name: str, number: np.generic | np.ndarray) -> ir.Value:
    initializers = model.graph.initializers
    if name not in initializers:
        tensor = ir.tensor(np.asarray(number), name=name)
        initializers.add(
            ir.Value(
                name=name,
                const_value=tensor,
                type=ir.TensorType(tensor.dtype),
                shape=ir.Shape(np.shape(number)),
            )
        )
    return initializers[name]
