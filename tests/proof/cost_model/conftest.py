"""A small encoder block in ONNX text, as the passes leave one, with constants of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from fuselage.graph.model import Graph

Parse = Callable[..., Graph]

HIDDEN, WIDE, VOCABULARY = 8, 16, 11

BLOCK = """
block (int64[batch, sequence] ids, int64[batch, sequence] mask) => (float[batch, sequence, 8] y)
{
    e = Gather<axis = 0>(table, ids)
    n = LayerNormalization(e, gamma, beta)
    q = MatMul(n, wq)
    a = Attention<q_num_heads = 2, kv_num_heads = 2>(q, n, n)
    r = Add(a, e)
    u = MatMul(r, wu)
    g = Gelu(u)
    d = MatMul(g, wd)
    f = Cast<to = 1>(mask)
    m = Unsqueeze(f, axes)
    y = Mul(d, m)
}
"""


def parse(text: str, **constants: NDArray[Any]) -> Graph:
    """A graph whose nodes are named after their outputs; constants become initializers."""
    model = ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n{text}'
    )
    values = ir.convenience.create_value_mapping(model.graph)
    for name, array in constants.items():
        value, tensor = values[name], ir.tensor(np.asarray(array), name=name)
        value.const_value, value.shape = tensor, ir.Shape(tensor.shape)
        value.type = ir.TensorType(tensor.dtype)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"n_{node.outputs[0].name}"
    return Graph(model)


@pytest.fixture(name="parse")
def _parse() -> Parse:
    return parse


@pytest.fixture
def block() -> Graph:
    """[batch, sequence] ids and mask -> [batch, sequence, 8]."""
    random = np.random.default_rng(0)

    def weight(*dims: int) -> NDArray[np.float32]:
        return random.standard_normal(dims).astype(np.float32)

    return parse(
        BLOCK,
        table=weight(VOCABULARY, HIDDEN),
        gamma=weight(HIDDEN),
        beta=weight(HIDDEN),
        wq=weight(HIDDEN, HIDDEN),
        wu=weight(HIDDEN, WIDE),
        wd=weight(WIDE, HIDDEN),
        axes=np.array([2]),
    )
