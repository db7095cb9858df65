"""A small transformer block, and running a model as it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from fuselage.passes.qdq.params import QuantParams

Run = Callable[[ir.Model, Mapping[str, NDArray[Any]]], list[NDArray[Any]]]

BLOCK = """
<ir_version: 10, opset_import: ["" : 23]>
block (float[batch, sequence, 32] x) => (float[batch, sequence, 32] y) {
    normed = LayerNormalization(x, gamma, beta)
    q = MatMul(normed, wq)
    k = MatMul(normed, wk)
    scores_in = Add(q, bq)
    mixed = Mul(scores_in, k)
    hidden = MatMul(mixed, w1)
    active = Gelu(hidden)
    down = MatMul(active, w2)
    y = Add(down, normed)
}
"""


def weights() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    shapes = {"wq": (32, 32), "wk": (32, 32), "w1": (32, 48), "w2": (48, 32)}
    made = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    made |= {"gamma": np.ones(32), "beta": np.zeros(32), "bq": rng.normal(0, 1, 32)}
    return {name: array.astype(np.float32) for name, array in made.items()}


def model_from(text: str, arrays: Mapping[str, NDArray[Any]]) -> ir.Model:
    """Parse ONNX text whose free names are the given constants; every node gets a name."""
    head, arrow, rest = text.partition(") => (")
    declared = (
        f", {_KINDS[array.dtype.name]}[{', '.join(map(str, array.shape))}] {name}"
        for name, array in arrays.items()
    )
    model = ir.from_onnx_text(head + "".join(declared) + arrow + rest)
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in arrays]:
        graph.inputs.remove(value)
        value.const_value = ir.tensor(arrays[value.name], name=value.name)
        graph.register_initializer(value)
    for node in graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


_KINDS = {"float32": "float", "float16": "float16", "int8": "int8", "uint8": "uint8"} | {
    "int64": "int64",
    "int32": "int32",
}


@pytest.fixture
def parse() -> Callable[[str, Mapping[str, NDArray[Any]]], ir.Model]:
    return model_from


@pytest.fixture
def block() -> ir.Model:
    return model_from(BLOCK, weights())


@pytest.fixture
def block_weights() -> dict[str, NDArray[Any]]:
    return weights()


@pytest.fixture
def params() -> dict[str, QuantParams]:
    """Ranges of the block's three activations."""
    ranges = {"normed": 5.0, "mixed": 40.0, "active": 60.0}
    return {name: QuantParams.symmetric(amax) for name, amax in ranges.items()}


@pytest.fixture
def run() -> Run:
    def run_model(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        data = ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(data, options, ["CPUExecutionProvider"])
        arrays: list[NDArray[Any]] = session.run(None, dict(feeds))
        return arrays

    return run_model
