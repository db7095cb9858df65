"""A graph of three linear layers, whose weights a test may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.graph.tensors import Array

WIDTH, LAYERS = 16, 3
Change = Callable[[str, Array], Array]

_HEAD = """<ir_version: 10, opset_import: ["": 20]>
stack (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, sequence, 16] hidden_3) {
    hidden_0 = Gather (table, input_ids)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Callable[..., Path]:
    """Write Gather, then three times MatMul, Add, Tanh; weights may be changed by name.

    Folded, the product of layer 1 has a constant of its own that the next sum takes back.
    """

    def write(name: str, change: Change | None = None, *, folded: bool = False) -> Path:
        weights = _weights()
        lines = [_layer(layer, folded=folded and layer == 1) for layer in range(LAYERS)]
        if folded:
            weights["shift"] = np.full(WIDTH, 3.0)
            weights["bias_1"] = weights["bias_1"] - weights["shift"]
        model = ir.from_onnx_text(_HEAD + "".join(lines) + "}")
        for node in model.graph:
            node.name = node.outputs[0].name
        values = ir.convenience.create_value_mapping(model.graph)
        for key, array in weights.items():
            changed = array.astype(np.float32)
            changed = changed if change is None else change(key, changed).astype(np.float32)
            _fill(model.graph, values[key], changed)
        ir.save(model, tmp_path / f"{name}.onnx")
        return tmp_path / f"{name}.onnx"

    return write


def _layer(layer: int, *, folded: bool) -> str:
    moved = f"    moved = Add (product_{layer}, shift)\n" if folded else ""
    product = "moved" if folded else f"product_{layer}"
    return (
        f"    product_{layer} = MatMul (hidden_{layer}, weight_{layer})\n{moved}"
        f"    sum_{layer} = Add ({product}, bias_{layer})\n"
        f"    hidden_{layer + 1} = Tanh (sum_{layer})\n"
    )


def _weights() -> dict[str, Array]:
    random = np.random.default_rng(0)
    weights: dict[str, Array] = {"table": random.standard_normal((40, WIDTH))}
    for layer in range(LAYERS):
        weights[f"weight_{layer}"] = random.standard_normal((WIDTH, WIDTH)) / 4
        weights[f"bias_{layer}"] = random.standard_normal(WIDTH)
    return weights


def _fill(graph: ir.Graph, value: ir.Value, array: Array) -> None:
    value.const_value = ir.tensor(array, name=value.name)
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(array.shape)
    graph.register_initializer(value)


@pytest.fixture
def feeds() -> dict[str, Array]:
    """Three rows of 24 tokens, some of them padding."""
    ids = np.random.default_rng(1).integers(0, 40, (3, 24))
    mask = np.ones_like(ids)
    mask[1, 20:] = 0
    return {"input_ids": ids, "attention_mask": mask}
