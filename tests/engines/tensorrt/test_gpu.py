"""The same graph on a real GPU and on ONNX Runtime; skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig, LoadOptions
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.flavour import FLAVOURS, targetable
from fuselage.graph.tensors import ShapeProfile

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("target", FLAVOURS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_answers_like_onnxruntime(
    graphs: ModuleType, tmp_path: Path, target: str, dtype: str
) -> None:
    backend = TensorRtBackend.of(target)
    if blocker := backend.run_blocker():
        pytest.skip(blocker)
    gpu = Cuda.open().compute_capability(0)
    valid = targetable(backend.flavour.module())
    if valid and gpu not in valid:
        pytest.skip(f"{target} does not compile for {gpu}")
    graph = graphs.encoder(dtype)
    profile = ShapeProfile.parse("batch=1:2:4,sequence=1:16:32")
    capabilities = (gpu,) if valid else ()
    backend.build(graph, BuildConfig(profile=profile, compute_capabilities=capabilities), tmp_path)
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(ir.to_proto(graph.model).SerializeToString())
    random = np.random.default_rng(0)
    with backend.load(tmp_path, LoadOptions()) as engine:
        for batch, sequence in ((1, 1), (4, 32), (3, 7)):
            mask = np.arange(sequence) < random.integers(1, sequence + 1, (batch, 1))
            ids = random.integers(0, 50, (batch, sequence))
            feeds = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
            expected = session.run(None, feeds)[0]
            tolerance = 1e-2 if dtype == "float16" else 1e-4
            found = engine.run(feeds)["hidden"]
            np.testing.assert_allclose(found[mask], expected[mask], atol=tolerance)
