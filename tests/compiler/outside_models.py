"""Models from outside, the command that optimises them, and how answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

Array = NDArray[Any]
Optimize = Callable[..., tuple[int, str]]
MOST = np.finfo(np.float32).max

GELU = "d = Div(x, root)  e = Erf(d)  a = Add(e, one)  m = Mul(x, a)  g = Mul(m, half)"
WEIGHTS = {
    "root": np.float32(2**0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "w": np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8),
    "b": np.linspace(0, 1, 8, dtype=np.float32),
}


def model_of(
    text: str, *, opset: int = 20, header: str = "", **constants: Array | np.generic
) -> onnx.ModelProto:
    """ONNX text; the constants it reads become initializers."""
    header = header or f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header}\n{text}")
    for name, value in (WEIGHTS | constants).items():
        if f" {name}" in text or f"({name}" in text:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def answers(model: onnx.ModelProto | Path, feeds: dict[str, Array]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(data, options, ["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def assert_same(model: onnx.ModelProto, out: Path, **feeds: Array) -> None:
    for wanted, got in zip(answers(model, feeds), answers(out, feeds), strict=True):
        if isinstance(wanted, list):
            wanted, got = np.concatenate(wanted), np.concatenate(got)
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, wanted)


def operators(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path).graph.node)


X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(3, 8)

FUNCTIONS = """<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
f (float[n, 8] x) => (float[n, 8] y) {
    g = own.gelu(x, root)
    h = own.soft <axis = 0> (g)
    y = own.twice(h)
}
<domain: "own", opset_import: ["" : 20]>
gelu (x, root) => (g) {
    one = Constant<value = float {1.0}>()  half = Constant<value = float {0.5}>()
    d = Div(x, root)  e = Erf(d)  a = Add(e, one)  m = Mul(x, a)  g = Mul(m, half)
}
<domain: "own", opset_import: ["" : 20]>
soft <axis> (x) => (y) { y = Softmax<axis: int = @axis>(x) }
<domain: "own", opset_import: ["" : 20, "own" : 1]>
twice (x) => (y) { s = own.soft<axis = 1>(x)  y = Add(s, x) }"""


def functions_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(FUNCTIONS)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS["root"], "root"))
    return model
