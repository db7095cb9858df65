"""Hand a model of any size to an engine builder: a small graph, and the weights beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from .tensors import Array

_INLINE_BYTES = 1024
"""Tensors up to this size stay in the graph: builders fold shapes and scalars when parsing."""


@dataclass(frozen=True)
class DetachedModel:
    """Graph bytes and the weights they refer to.

    Attributes:
        graph: serialised ModelProto, far below protobuf's 2 GiB limit.
        weights: initializer name -> C-contiguous array. The arrays are views of the tensors of the
            model they came from, not copies; keep this object alive while a builder reads them.
    """

    graph: bytes
    weights: Mapping[str, Array]


def detach_weights(model: ir.Model) -> DetachedModel:
    """Split a model into stub and weights without copying the weights.

    For ORT (``SessionOptions.add_external_initializers``, which copies what it gets) and TensorRT
    (``OnnxParser.load_model_proto`` + ``load_initializer``). A 2.25 GiB model gives a stub of 4 kB
    in 10 ms. Initializers that no node reads are left out, because ORT refuses them.

    Args:
        model: any model; it is not changed.
    """
    stub = model.clone()
    common.RemoveUnusedNodesPass()(stub)
    weights: dict[str, Array] = {}
    for name, value in stub.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes <= _INLINE_BYTES:
            continue  # strings have no buffer to hand over
        # Once: a lazy tensor (a weight in another precision) is computed at each request.
        array = np.ascontiguousarray(tensor.numpy())
        weights[name] = array
        value.const_value = ir.ExternalTensor(
            "detached",
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(array.shape),
            name=name,
        )
    return DetachedModel(ir.to_proto(stub).SerializeToString(), weights)
