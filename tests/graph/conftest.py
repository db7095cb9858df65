from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.graph.model import Graph

TEXT = """<ir_version: 10, opset_import: ["" : {opset}]>
net (float[batch, 16] x, int64[batch, s] ids) => (float[batch, 32] y, int64[n] shape)
{{
    h = MatMul(x, w)
    s = Add(h, b)
    y = Mul(s, scale)
    shape = Shape(ids)
}}"""


def make_graph(*, opset: int = 23, **changed: Any) -> Graph:
    """One product with a large weight (4 kB), a small bias (128 B) and a scalar."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(0, 1, (16, 64)).astype(np.float32)[:, ::2].copy(),
        "b": random.normal(0, 1, 32).astype(np.float32),
        "scale": np.float32(0.5),
    } | changed
    model = ir.from_onnx_text(TEXT.format(opset=opset))
    values = ir.convenience.create_value_mapping(model.graph)
    for name, array in weights.items():
        tensor = array if isinstance(array, ir.TensorProtocol) else ir.tensor(array, name=name)
        value = values.get(name) or ir.Value(name=name)
        value.const_value, value.dtype = tensor, tensor.dtype
        value.shape = ir.Shape(np.shape(array))
        model.graph.register_initializer(value)
    return Graph(model)


@pytest.fixture
def build() -> Callable[..., Graph]:
    return make_graph


@pytest.fixture
def graph() -> Graph:
    return make_graph()
