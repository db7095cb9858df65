from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from fuselage.engines.base import BuildConfig, LoadOptions
from fuselage.engines.ort import backend as module
from fuselage.engines.ort.backend import OrtBackend
from fuselage.errors import BuildError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import Array

Feeds = Callable[[int, int], dict[str, Array]]


def plain_session(graph: Graph, path: Path, *, optimize: bool) -> Any:
    """A session on the graph as it is, without the backend under test."""
    graph.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["SkipLayerNormFusion"] if optimize else None,
    )


def test_engine_json_says_what_was_built(tiny: Graph, config: BuildConfig, tmp_path: Path) -> None:
    artifact = OrtBackend("ort-cpu").build(tiny, config, tmp_path)

    facts = json.loads((tmp_path / "engine.json").read_text())
    assert facts == dict(artifact.facts)
    assert artifact.files == ("engine.json", "model.onnx", "model.weights")
    assert {file.name for file in tmp_path.iterdir()} == set(artifact.files)
    assert facts["nodes"]["com.microsoft::BiasGelu"] == 1
    assert facts["nodes"]["LayerNormalization"] == 1
    assert facts["nodes"]["MatMul"] == 2
    assert "Gelu" not in facts["nodes"]
    sizes = [(tmp_path / name).stat().st_size for name in ("model.onnx", "model.weights")]
    assert facts["bytes"] == sum(sizes)
    assert facts["package_version"] == onnxruntime.__version__
    assert facts["threads"] == 1
    assert facts["inputs"][0] == {
        "name": "ids",
        "dtype": "int64",
        "dims": ["batch", "sequence"],
    }
    assert facts["outputs"] == [{"name": "pooled", "dtype": "float32", "dims": ["batch", 32]}]


def test_residual_and_norm_stay_two_nodes(
    tiny: Graph, config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = OrtBackend("ort-cpu").build(tiny, config, tmp_path).facts["nodes"]
    assert not [name for name in nodes if "SkipLayerNorm" in name]

    monkeypatch.setattr("fuselage.engines.ort.session.DISABLED_OPTIMIZERS", ())
    (tmp_path / "fused").mkdir()
    nodes = OrtBackend("ort-cpu").build(tiny, config, tmp_path / "fused").facts["nodes"]
    assert nodes["com.microsoft::SkipLayerNormalization"] == 1


@pytest.mark.parametrize("kind", ["tiny", "tiny_int8"])
@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (3, 7), (8, 16), (11, 33)])
def test_saved_engine_gives_the_bits_of_the_source_session(
    kind: str,
    batch: int,
    sequence: int,
    request: pytest.FixtureRequest,
    config: BuildConfig,
    feeds: Feeds,
    tmp_path: Path,
) -> None:
    graph: Graph = request.getfixturevalue(kind)
    folder = tmp_path / "engine"
    folder.mkdir()
    OrtBackend("ort-cpu").build(graph, config, folder)
    feed = feeds(batch, sequence)

    with OrtBackend("ort-cpu").load(folder, LoadOptions(threads=1)) as engine:
        found = engine.run(feed)["pooled"]

    optimized = plain_session(graph, tmp_path / "o.onnx", optimize=True).run(None, feed)[0]
    plain = plain_session(graph, tmp_path / "p.onnx", optimize=False).run(None, feed)[0]
    assert found.tobytes() == optimized.tobytes()
    assert found.shape == (batch, 32)
    # The int8 kernels round the bias and the product once instead of twice.
    np.testing.assert_allclose(found, plain, atol=1e-5 if kind == "tiny" else 2e-2, rtol=0)


def test_int8_graph_keeps_an_integer_matmul(
    tiny_int8: Graph, config: BuildConfig, tmp_path: Path
) -> None:
    nodes = OrtBackend("ort-cpu").build(tiny_int8, config, tmp_path).facts["nodes"]
    assert nodes["com.microsoft::MatMulIntegerToFloat"] == 1
    assert nodes["MatMul"] == 1


def test_two_builds_write_the_same_graph_and_weights(
    tiny: Graph, config: BuildConfig, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        OrtBackend("ort-cpu").build(tiny, config, tmp_path / name)
    for file in ("model.onnx", "model.weights"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_build_leaves_the_graph_alone(tiny: Graph, config: BuildConfig, tmp_path: Path) -> None:
    before = tiny.digest()
    OrtBackend("ort-cpu").build(tiny, config, tmp_path)
    assert tiny.digest() == before


def test_a_graph_without_large_weights_has_no_weights_file(
    config: BuildConfig, tmp_path: Path
) -> None:
    graph = Graph(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 23]>'
            "negate (float[batch, 4] x) => (float[batch, 4] y) { y = Neg(x) }"
        )
    )
    artifact = OrtBackend("ort-cpu").build(graph, config, tmp_path)
    assert artifact.files == ("engine.json", "model.onnx")


def test_zeros_are_tried_when_ones_are_out_of_range(config: BuildConfig, tmp_path: Path) -> None:
    table = ir.tensor(np.full((1, 4), 7, np.float32), name="table")
    graph = Graph(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 23]>'
            "only (int64[batch] ids) => (float[batch, 4] y) { y = Gather(table, ids) }",
            [table],
        )
    )
    OrtBackend("ort-cpu").build(graph, config, tmp_path)
    with OrtBackend("ort-cpu").load(tmp_path, LoadOptions(threads=1)) as engine:
        assert (engine.run({"ids": np.zeros(2, np.int64)})["y"] == 7).all()


def test_an_engine_that_answers_otherwise_fails_the_build(
    tiny: Graph, config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = OrtBackend._check_reload

    def one_bit_off(
        self: OrtBackend, folder: Path, threads: int, feeds: Any, expected: dict[str, Array]
    ) -> None:
        expected["pooled"] = np.nextafter(expected["pooled"], np.float32(9))
        check(self, folder, threads, feeds, expected)

    monkeypatch.setattr(OrtBackend, "_check_reload", one_bit_off)
    with pytest.raises(BuildError, match="output 'pooled' of the saved engine differs"):
        OrtBackend("ort-cpu").build(tiny, config, tmp_path)


def test_an_operator_nobody_knows_is_a_build_error_in_onnx_runtimes_words(
    config: BuildConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = Graph(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 23, "my.ops" : 1]>'
            "odd (float[batch] x) => (float[batch] y) { y = my.ops.Frobnicate(x) }"
        )
    )
    with pytest.raises(
        BuildError, match=r"ort-cpu: ONNX Runtime cannot optimise and save it: .*Frobnicate"
    ):
        OrtBackend("ort-cpu").build(graph, config, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_cannot_run_is_a_build_error(config: BuildConfig, tmp_path: Path) -> None:
    three = ir.tensor(np.array([3, -1], np.int64), name="three")
    graph = Graph(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 23]>'
            "odd (float[batch, 5] x) => (float[a, b] y) { y = Reshape(x, three) }",
            [three],
        )
    )
    narrow = dataclasses.replace(config, profile=type(config.profile)({"batch": (1, 1, 2)}))
    with pytest.raises(BuildError, match=r"runs neither on ones nor on zeros; .*Reshape"):
        OrtBackend("ort-cpu").build(graph, narrow, tmp_path)


def test_four_bit_weights_pass_as_they_are(config: BuildConfig, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-8, 8, (64, 64), np.int8)
    packed = ir.tensor(values, dtype=ir.DataType.INT4, name="w")
    graph = Graph(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 23]>'
            "odd (float s) => (float[64, 64] y) { y = DequantizeLinear(w, s) }",
            [packed],
        )
    )
    OrtBackend("ort-cpu").build(graph, config, tmp_path)
    with OrtBackend("ort-cpu").load(tmp_path, LoadOptions(threads=1)) as engine:
        found = engine.run({"s": np.array(0.5, np.float32)})["y"]
    np.testing.assert_array_equal(found, values * np.float32(0.5))


def test_bfloat16_weights_pass_as_they_are(config: BuildConfig, tmp_path: Path) -> None:
    weight = ir.tensor(np.full((32, 32), 1.5, np.float32)).numpy().astype("bfloat16")
    graph = Graph(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 23]>'
            "cast (int64[batch] ids) => (float[batch, 32] y)"
            "{ row = Gather(w, ids)  y = Cast<to = 1>(row) }",
            [ir.tensor(weight, name="w")],
        )
    )
    OrtBackend("ort-cpu").build(graph, config, tmp_path)
    with OrtBackend("ort-cpu").load(tmp_path, LoadOptions(threads=1)) as engine:
        assert (engine.run({"ids": np.array([31])})["y"] == 1.5).all()


def test_a_small_disk_is_refused_before_anything_is_written(
    tiny: Graph, config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage(1000))
    with pytest.raises(BuildError, match=r"needs 59,\d{3} bytes, but the disk has 1,000 free"):
        OrtBackend("ort-cpu").build(tiny, config, tmp_path)
    assert list(tmp_path.iterdir()) == []


_MEMORY = """
import resource, sys, tracemalloc
import numpy as np, onnx_ir as ir
from pathlib import Path
from fuselage.engines.base import BuildConfig
from fuselage.engines.ort.backend import OrtBackend
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

table = np.ones((400_000, 64), np.float32)
graph = Graph(ir.from_onnx_text(
    '<ir_version: 10, opset_import: ["" : 23]>'
    'big (int64[batch] ids) => (float[batch, 64] y) { y = Gather(table, ids) }',
    [ir.tensor(table, name="table")]))
import onnxruntime
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = rss()
tracemalloc.start()
OrtBackend("ort-cpu").build(
    graph, BuildConfig(profile=ShapeProfile({"batch": (1, 1, 4)}), threads=1), Path(sys.argv[1]))
print(table.nbytes, tracemalloc.get_traced_memory()[1], rss() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
def test_weights_are_not_copied(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    weights, python_peak, process_growth = map(int, done.stdout.split())
    assert weights == 102_400_000
    assert (tmp_path / "model.weights").stat().st_size >= weights
    assert python_peak < 0.1 * weights
    # ONNX Runtime itself holds one copy while it saves.
    assert process_growth < 1.5 * weights


def test_unknown_target_is_refused() -> None:
    with pytest.raises(BuildError, match="target 'ort-tpu': expected one of"):
        OrtBackend("ort-tpu")
