from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from fuselage.graph.model import Graph
from fuselage.graph.weights import detach_weights


def test_weights_are_views_of_the_model(graph: Graph) -> None:
    detached = detach_weights(graph.model)
    assert list(detached.weights) == ["w"]  # the bias and the scalar stay in the graph
    held = graph.model.graph.initializers["w"].const_value
    assert held is not None
    assert np.shares_memory(detached.weights["w"], held.numpy())
    assert detached.weights["w"].flags.c_contiguous


def test_mapped_files_are_not_read(graph: Graph, tmp_path: Path) -> None:
    path, _ = graph.save(tmp_path / "net.onnx")
    loaded = Graph.load(path)
    held = loaded.model.graph.initializers["w"].const_value
    assert held is not None
    assert np.shares_memory(detach_weights(loaded.model).weights["w"], held.numpy())


def test_the_model_is_not_changed(graph: Graph) -> None:
    before = graph.digest()
    detach_weights(graph.model)
    assert graph.digest() == before
    assert not isinstance(graph.model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_the_stub_is_small_and_names_its_weights(build: Any) -> None:
    large = build(w=np.ones((16, 100_000), np.float32))
    detached = detach_weights(large.model)
    assert len(detached.graph) < 2000
    stub = onnx.load_from_string(detached.graph)
    external = {t.name for t in stub.graph.initializer if t.data_location == t.EXTERNAL}
    assert external == set(detached.weights) == {"w"}
    assert list(stub.graph.initializer[0].dims) == [16, 100_000]


@pytest.mark.parametrize(("size", "detached"), [(256, False), (257, True)])
def test_tensors_up_to_a_kilobyte_stay_in_the_graph(build: Any, size: int, detached: bool) -> None:
    model = build(b=np.ones((1, size), np.float32)).model
    assert ("b" in detach_weights(model).weights) is detached


def test_unread_initializers_are_left_out(build: Any) -> None:
    model = build(unread=np.ones(1000, np.float32)).model
    detached = detach_weights(model)
    assert list(detached.weights) == ["w"]
    names = {tensor.name for tensor in onnx.load_from_string(detached.graph).graph.initializer}
    assert names == {"w", "b", "scale"}
    assert "unread" in model.graph.initializers


def test_an_initializer_that_is_a_graph_output_is_kept(build: Any) -> None:
    model = build().model
    model.graph.outputs[1] = model.graph.initializers["w"]
    assert list(detach_weights(model).weights) == ["w"]


def test_strided_weights_become_contiguous(build: Any) -> None:
    strided = np.arange(2048, dtype=np.float32).reshape(16, 128)[:, ::4]
    weights = detach_weights(build(w=strided).model).weights
    assert weights["w"].flags.c_contiguous
    np.testing.assert_array_equal(weights["w"], strided)


def test_bfloat16_and_lazy_weights_are_handed_over(build: Any) -> None:
    half = np.ones((16, 64), ml_dtypes.bfloat16)
    lazy = ir.LazyTensor(
        lambda: ir.tensor(half), dtype=ir.DataType.BFLOAT16, shape=ir.Shape([16, 64])
    )
    weights = detach_weights(build(w=lazy).model).weights
    assert weights["w"].dtype == ml_dtypes.bfloat16
    assert weights["w"].shape == (16, 64)


def test_onnx_runtime_takes_what_was_detached(graph: Graph) -> None:
    detached = detach_weights(graph.model)
    options = ort.SessionOptions()
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in detached.weights.values()]
    options.add_external_initializers(list(detached.weights), values)
    session = ort.InferenceSession(detached.graph, options, ["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(0, 1, (3, 16)).astype(np.float32)
    ids = np.ones((3, 5), np.int64)
    y, shape = session.run(None, {"x": x, "ids": ids})
    w, b = (
        graph.model.graph.initializers[name].const_value.numpy()  # type: ignore[union-attr]
        for name in "wb"
    )
    np.testing.assert_allclose(y, (x @ w + b) * 0.5, atol=1e-5, rtol=1e-5)
    assert shape.tolist() == [3, 5]
