"""A tiny text model with an outlier channel, and a tokenizer that needs no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.graph.model import Graph

VOCABULARY = 64

TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
tiny (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask%s)
    => (float[batch, 32] embedding)
{
    rows = Gather(table, input_ids)
    normed = LayerNormalization(rows, gamma, beta)
    hidden = MatMul(normed, w1)
    active = Gelu(hidden)
    down = MatMul(active, w2)
    mixed = Add(down, normed)
    mask = Cast <to = 1> (attention_mask)
    column = Unsqueeze(mask, last)
    kept = Mul(mixed, column)
    total = ReduceSum <keepdims = 0> (kept, one)
    count = ReduceSum <keepdims = 1> (mask, one)
    embedding = Div(total, count)
}
"""


@dataclass(frozen=True)
class FakeEncoding:
    ids: list[int]
    type_ids: list[int]
    attention_mask: list[int]


@dataclass
class FakeTokenizer:
    """One token a character between a start and an end token."""

    calls: int = 0

    def __call__(self, texts: Sequence[str]) -> list[FakeEncoding]:
        self.calls += 1
        rows = [[1, *(3 + ord(c) % (VOCABULARY - 3) for c in text), 2] for text in texts]
        return [FakeEncoding(row, [0] * len(row), [1] * len(row)) for row in rows]


def tiny_graph() -> Graph:
    rng = np.random.default_rng(7)
    gamma = np.ones(32)
    gamma[5] = 12.0
    arrays = {
        "table": rng.normal(size=(VOCABULARY, 32)),
        "gamma": gamma,
        "beta": np.zeros(32),
        "w1": rng.normal(0, 0.2, (32, 48)),
        "w2": rng.normal(0, 0.2, (48, 32)),
    }
    constants = {name: array.astype(np.float32) for name, array in arrays.items()}
    constants |= {"last": np.array([-1], np.int64), "one": np.array([1], np.int64)}
    declared = "".join(
        f", {'int64' if array.dtype == np.int64 else 'float'}"
        f"[{', '.join(map(str, array.shape))}] {name}"
        for name, array in constants.items()
    )
    model = ir.from_onnx_text(TEXT % declared)
    for value in [value for value in model.graph.inputs if value.name in constants]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(constants[value.name], name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return Graph(model)


@pytest.fixture
def graph() -> Graph:
    return tiny_graph()


@pytest.fixture
def tokenize() -> FakeTokenizer:
    return FakeTokenizer()
