"""Repair what the PyTorch exporter emits and ONNX Runtime then refuses or reads in another way."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Metadata key under which the exporter keeps the path of modules a node came from."""

MASK_FILL = np.float32(-1e38)
"""What a hidden key adds to a score.

Not the lowest float32, which transformers uses: ONNX Runtime 1.31 answers 0 for a row of scores
that are all the lowest, where eager attention spreads evenly. Any score vanishes beside 1e38, so
the row is uniform to the last bit, and two masks may be added without overflow.
"""


def repair(model: ir.Model) -> None:
    """Apply every repair in place."""
    _soften_fills(model)
    _add_boolean_masks(model)
    _expand_rotary_caches(model)


def _soften_fills(model: ir.Model) -> None:
    lowest = np.finfo(np.float32).min
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.size != 1 or tensor.dtype != ir.DataType.FLOAT:
            continue
        if tensor.numpy().item() == lowest:
            fill = np.full(tensor.numpy().shape, MASK_FILL, np.float32)
            value.const_value = ir.Tensor(fill, name=value.name)


def _add_boolean_masks(model: ir.Model) -> None:
    """Boolean attention masks become additive.

    What a boolean mask means for a row without any key is left open by the operator, and ONNX
    Runtime, PyTorch's sdpa and eager attention differ.
    """
    additive: dict[ir.Value, ir.Value] = {}
    for node in tuple(model.graph):
        mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
        if mask is None or mask.dtype != ir.DataType.BOOL:
            continue
        if mask not in additive:
            shown = _constant(model, "mask_shown", np.float32(0))
            hidden = _constant(model, "mask_hidden", MASK_FILL)
            additive[mask] = _insert(
                node, "Where", [mask, shown, hidden], ir.DataType.FLOAT, mask.shape
            )
        node.replace_input_with(3, additive[mask])


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
