"""Plans that take weights, come without them, or stream them: built and opened on the fake."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig, ExecutorOptions, LoadOptions
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.errors import BuildError, BundleError, DeviceError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

WIDTH = 24
"""24 x 24 halves are 1,152 bytes, more than what stays in the graph."""

PROFILE = ShapeProfile.parse("batch=1:2:4")
TEXT = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    layer (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
        narrow = Cast <to = 10> (x)
        product = MatMul (narrow, w)
        sum = Add (product, b)
        y = Cast <to = 1> (sum)
    }}
"""


def weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {"w": (WIDTH, WIDTH), "b": (WIDTH,)}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def graph_of(values: dict[str, np.ndarray], dtype: str = "float16") -> Graph:
    model = onnx.parser.parse_model(TEXT)
    for name, array in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), name))
    return Graph(ir.from_proto(model))


def canonical(values: dict[str, np.ndarray], folder: Path) -> tuple[Path, Graph]:
    """The bundle's graph: the same weights in float32, and something before them."""
    path = folder / "graph" / "model.onnx"
    path.parent.mkdir(exist_ok=True, parents=True)
    wide = {"other": np.ones((64, 64), np.float32), **values}
    graph_of(wide, "float32").save(path, "model.weights")
    return path, Graph.load(path)


def expected(values: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return x @ values["w"] + values["b"]


X = np.random.default_rng(9).normal(size=(3, WIDTH)).astype(np.float32)


class Bench:
    """A fake GPU with a TensorRT of one version, and its backend."""

    def __init__(self, fakes: ModuleType, version: str, patch: pytest.MonkeyPatch) -> None:
        self.cuda = fakes.FakeCuda()
        self.trt = fakes.FakeTensorRt(version, self.cuda)
        self.fakes = fakes
        package = version.split("-")[0]
        patch.setitem(sys.modules, package, self.trt)
        patch.setitem(sys.modules, "cuda.bindings.runtime", self.cuda)
        self.backend = TensorRtBackend.of(package.replace("_", "-"))
        self.targets = ("SM89",) if package == "tensorrt_rtx" else ()

    def config(self, **options: Any) -> BuildConfig:
        return BuildConfig(profile=PROFILE, compute_capabilities=self.targets, **options)

    def build(self, graph: Graph, folder: Path, **options: Any) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        artifact = self.backend.build(graph, self.config(**options), folder)
        assert sorted(artifact.files) == sorted(path.name for path in folder.iterdir())
        return json.loads((folder / "engine.json").read_text())

    def answer(self, folder: Path, source: Path | None = None, **executor: Any) -> np.ndarray:
        options = LoadOptions(executor=ExecutorOptions(**executor), source=source)
        with self.backend.load(folder, options) as engine:
            found = engine.run({"x": X})["y"]
        assert self.cuda.leaks() == {}
        return found


@pytest.fixture(params=["tensorrt-10.16.1.11", "tensorrt-11.4.0.106", "tensorrt_rtx-1.7.1.116"])
def bench(
    fakes: ModuleType, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    return Bench(fakes, request.param, monkeypatch)


@pytest.fixture
def one(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(fakes, "tensorrt-11.4.0.106", monkeypatch)


@pytest.mark.parametrize(
    ("options", "mode", "files"),
    [
        ({}, (None, False, False), 2),
        ({"refittable": True}, ("any", False, False), 3),
        ({"stripped": True}, ("identical", True, False), 3),
        ({"refittable": True, "stripped": True}, ("any", True, False), 3),
        ({"weight_streaming": True}, (None, False, True), 2),
    ],
)
def test_the_builder_is_asked_for_what_engine_json_says(
    bench: Bench, tmp_path: Path, options: dict[str, bool], mode: tuple[Any, ...], files: int
) -> None:
    values = weights(1)
    source, held = canonical(values, tmp_path)
    folder = tmp_path / "engine"
    facts = bench.build(graph_of(values), folder, source=held, **options)
    stated = dict(zip(("refit", "stripped", "streamed"), mode, strict=True))
    assert facts["weights"] == stated
    header = json.loads((folder / "engine.plan").read_bytes().split(b"\n")[0].split(b" ", 3)[3])
    assert {name: header[name] for name in stated} == stated
    assert len(list(folder.iterdir())) == files
    np.testing.assert_allclose(bench.answer(folder, source), expected(values, X), atol=0.05)


def test_a_stripped_plan_takes_its_weights_from_the_bundles_graph(
    bench: Bench, tmp_path: Path
) -> None:
    values = weights(2)
    source, held = canonical(values, tmp_path)
    folder = tmp_path / "engine"
    facts = bench.build(graph_of(values), folder, source=held, stripped=True)
    (entry,) = facts["weight_table"]  # the bias is small enough to stay in the graph
    assert (entry["name"], entry["cast"], entry["shared"]) == ("w", "float16", True)
    assert entry["offset"] > 0
    assert b"\0" * 2 * WIDTH * WIDTH in (folder / "engine.plan").read_bytes()
    np.testing.assert_allclose(bench.answer(folder, source), expected(values, X), atol=0.05)


def test_what_the_graph_does_not_hold_lies_beside_the_plan(bench: Bench, tmp_path: Path) -> None:
    values = weights(2)
    source, held = canonical(weights(3), tmp_path)
    folder = tmp_path / "engine"
    facts = bench.build(graph_of(values), folder, source=held, stripped=True)
    assert [entry["shared"] for entry in facts["weight_table"]] == [False]
    assert (folder / "engine.weights").stat().st_size == 2 * WIDTH * WIDTH
    np.testing.assert_allclose(bench.answer(folder, source), expected(values, X), atol=0.05)


def test_bfloat16_is_rounded_as_lowering_does() -> None:
    import ml_dtypes

    from fuselage.engines.tensorrt.weights.table import _bfloat16

    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    values[:4] = [1.00390625, 1.01171875, -1.00390625, 3.0e38]  # ties to even both ways
    np.testing.assert_array_equal(
        _bfloat16(values), values.astype(ml_dtypes.bfloat16).view(np.uint16)
    )


def test_a_stripped_plan_alone_is_refused(one: Bench, tmp_path: Path) -> None:
    _, held = canonical(weights(1), tmp_path)
    one.build(graph_of(weights(1)), tmp_path / "engine", source=held, stripped=True)
    with pytest.raises(DeviceError, match=r"built without its weights.*through the bundle"):
        one.answer(tmp_path / "engine")


def test_weights_of_another_graph_are_refused(one: Bench, tmp_path: Path) -> None:
    source, held = canonical(weights(1), tmp_path)
    one.build(graph_of(weights(1)), tmp_path / "engine", source=held, stripped=True)
    canonical(weights(2), tmp_path)
    with pytest.raises(BundleError, match=r"expected the weight 'w'.*of different builds"):
        one.answer(tmp_path / "engine", source)
    (source.parent / "model.weights").write_bytes(b"short")
    with pytest.raises(BundleError, match="expected the weight 'w'"):
        one.answer(tmp_path / "engine", source)
    (source.parent / "model.weights").unlink()
    with pytest.raises(BundleError, match="built without its weights, which are here"):
        one.answer(tmp_path / "engine", source)


def test_a_stripped_plan_that_was_not_refitted_never_answers(
    one: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, held = canonical(weights(1), tmp_path)
    one.build(graph_of(weights(1)), tmp_path / "engine", source=held, stripped=True)
    monkeypatch.setattr("fuselage.engines.tensorrt.engine.refill", lambda *_: None)
    with pytest.raises(DeviceError, match="the stripped plan was not refitted"):
        one.answer(tmp_path / "engine", source)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refit", "cannot refit: the reason for refit"),
        ("refit-model", "cannot find the graph's weights in the plan: the reason for refit-model"),
    ],
)
def test_a_refit_that_fails_opens_no_engine(
    bench: Bench, tmp_path: Path, fault: str, message: str
) -> None:
    source, held = canonical(weights(1), tmp_path)
    bench.build(graph_of(weights(1)), tmp_path / "engine", source=held, stripped=True)
    bench.trt.faults = {fault}
    with pytest.raises(DeviceError, match=message):
        bench.answer(tmp_path / "engine", source)
    assert bench.cuda.leaks() == {}
    bench.trt.faults = set()
    bench.answer(tmp_path / "engine", source)


def test_weights_that_the_graph_lacks_are_named(one: Bench, tmp_path: Path) -> None:
    values = weights(1)
    source, held = canonical(values, tmp_path)
    one.build(graph_of(values), tmp_path / "engine", source=held, stripped=True)
    stub = tmp_path / "engine" / "engine.onnx"
    model = onnx.load_from_string(stub.read_bytes())
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "b")
    model.graph.initializer.remove(bias)
    stub.write_bytes(model.SerializeToString())
    with pytest.raises(DeviceError, match="the graph has no weights for b of the plan"):
        one.answer(tmp_path / "engine", source)


def test_a_plan_that_takes_none_is_not_filled(one: Bench, tmp_path: Path) -> None:
    source, held = canonical(weights(1), tmp_path)
    one.build(graph_of(weights(1)), tmp_path / "engine", source=held, stripped=True)
    plan = tmp_path / "engine" / "engine.plan"
    content = plan.read_bytes()
    other = content.replace(b'"refit": "identical"', b'"refit": null       ')
    assert len(other) == len(content)
    plan.write_bytes(other)
    with pytest.raises(DeviceError, match=r"takes no weights, although engine\.json says so"):
        one.answer(tmp_path / "engine", source)


def test_a_plan_for_identical_weights_takes_no_others(one: Bench, tmp_path: Path) -> None:
    source, held = canonical(weights(1), tmp_path)
    one.build(graph_of(weights(1)), tmp_path / "engine", source=held, stripped=True)
    with one.backend.load(tmp_path / "engine", LoadOptions(source=source)) as engine:
        with pytest.raises(DeviceError, match=r"weights of its bundle alone.*--refittable"):
            engine.refit({"w": weights(2)["w"].astype(np.float16)})
        np.testing.assert_allclose(engine.run({"x": X})["y"], expected(weights(1), X), atol=0.05)


class TestRefitOfAPlan:
    @pytest.mark.parametrize("stripped", [False, True])
    def test_a_new_plan_answers_with_the_new_weights(
        self, bench: Bench, tmp_path: Path, stripped: bool
    ) -> None:
        _, held = canonical(weights(1), tmp_path)
        old, new = tmp_path / "old", tmp_path / "new"
        options = {"refittable": True, "stripped": stripped}
        bench.build(graph_of(weights(1)), old, source=held, **options)
        before = {path.name: path.read_bytes() for path in old.iterdir()}
        source, held = canonical(weights(2), tmp_path / "second")
        new.mkdir()
        config = bench.config(source=held, **options)
        artifact = bench.backend.refit(old, graph_of(weights(2)), config, new)
        assert {path.name: path.read_bytes() for path in old.iterdir()} == before
        assert artifact.facts["weights"] == {
            "refit": "any",
            "stripped": stripped,
            "streamed": False,
        }
        assert artifact.facts["bytes"] == (new / "engine.plan").stat().st_size
        assert artifact.facts == json.loads((new / "engine.json").read_text())
        np.testing.assert_allclose(bench.answer(new, source), expected(weights(2), X), atol=0.05)
        again = tmp_path / "again"
        again.mkdir()
        source, held = canonical(weights(3), tmp_path / "third")
        bench.backend.refit(new, graph_of(weights(3)), replace(config, source=held), again)
        np.testing.assert_allclose(bench.answer(again, source), expected(weights(3), X), atol=0.05)

    def test_fixed_and_identical_ones_must_be_built_again(self, one: Bench, tmp_path: Path) -> None:
        _, held = canonical(weights(1), tmp_path)
        for options in ({}, {"stripped": True}):
            folder = tmp_path / f"engine{len(options)}"
            one.build(graph_of(weights(1)), folder, source=held, **options)
            with pytest.raises(BuildError, match=r"takes no other weights.*--rebuild"):
                one.backend.refit(folder, graph_of(weights(2)), one.config(), tmp_path)

    def test_another_architecture_is_refused_before_the_gpu_is_asked(
        self, one: Bench, tmp_path: Path
    ) -> None:
        folder, new = tmp_path / "old", tmp_path / "new"
        one.build(graph_of(weights(1)), folder, refittable=True)
        new.mkdir()
        wider = weights(1) | {"w": np.zeros((WIDTH, 2 * WIDTH), np.float32)}
        with pytest.raises(
            BuildError,
            match=r"expected weight w FLOAT16\[24,24\], got weight w FLOAT16\[24,48\].*--rebuild",
        ):
            one.backend.refit(folder, graph_of(wider), one.config(refittable=True), new)
        other = onnx.parser.parse_model(TEXT.replace("Add (product", "Sub (product"))
        for name, array in weights(1).items():
            other.graph.initializer.append(
                onnx.numpy_helper.from_array(array.astype(np.float16), name)
            )
        with pytest.raises(BuildError, match=r"expected node Add.*, got node Sub"):
            one.backend.refit(folder, Graph(ir.from_proto(other)), one.config(refittable=True), new)
        assert list(new.iterdir()) == []

    @pytest.mark.parametrize("fault", ["refit", "write"])
    def test_what_fails_leaves_no_plan(self, one: Bench, tmp_path: Path, fault: str) -> None:
        folder, new = tmp_path / "old", tmp_path / "new"
        one.build(graph_of(weights(1)), folder, refittable=True)
        new.mkdir()
        one.trt.faults = {fault}
        with pytest.raises(DeviceError, match=f"the reason for {fault}"):
            one.backend.refit(folder, graph_of(weights(2)), one.config(refittable=True), new)
        assert list(new.iterdir()) == []


class TestWithoutADriver:
    @pytest.mark.parametrize("option", ["refittable", "stripped"])
    def test_rtx_needs_one_gpu_and_a_driver(
        self, tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("tensorrt_rtx")
        backend = TensorRtBackend.of("tensorrt-rtx")
        config = BuildConfig(profile=PROFILE, **{option: True})
        with pytest.raises(BuildError, match="expected one compute capability, got SM80, SM86"):
            backend.build(graph_of(weights(1)), config, tmp_path)
        monkeypatch.setattr(
            "fuselage.engines.tensorrt.weights.mode.Cuda.blocker", lambda: "there is no driver"
        )
        with pytest.raises(BuildError, match=r"needs the CUDA driver.*there is no driver"):
            backend.build(
                graph_of(weights(1)), replace(config, compute_capabilities=("SM89",)), tmp_path
            )
        assert list(tmp_path.iterdir()) == []

    def test_rtx_streams_weights_of_a_plan_built_without_one(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx")
        backend = TensorRtBackend.of("tensorrt-rtx")
        plans = []
        for streamed in (False, True):
            config = BuildConfig(profile=PROFILE, weight_streaming=streamed)
            facts = backend.build(graph_of(weights(1)), config, tmp_path).facts
            assert facts["weights"]["streamed"] is streamed
            plans.append((tmp_path / "engine.plan").read_bytes())
        assert plans[0] != plans[1]


STREAMABLE = 2 * WIDTH * (WIDTH + 1)


class TestWeightStreaming:
    @pytest.fixture
    def folder(self, bench: Bench, tmp_path: Path) -> Path:
        bench.build(graph_of(weights(1)), tmp_path / "engine", weight_streaming=True)
        return tmp_path / "engine"

    @pytest.mark.parametrize(
        ("asked", "taken"),
        [(None, STREAMABLE // 2), (0, 0), (100, 100), (10**9, STREAMABLE)],
    )
    def test_the_budget_is_set_before_any_context(
        self, bench: Bench, folder: Path, asked: int | None, taken: int
    ) -> None:
        options = LoadOptions(executor=ExecutorOptions(weight_streaming_budget=asked))
        with bench.backend.load(folder, options) as engine:
            assert engine._plan.engine.weight_streaming_budget_v2 == taken  # type: ignore[attr-defined]
            streams = f"{STREAMABLE - taken:,} of {STREAMABLE:,} bytes of weights stay"
            assert any(note.startswith(streams) for note in engine.notes) is (taken < STREAMABLE)
            np.testing.assert_allclose(
                engine.run({"x": X})["y"], expected(weights(1), X), atol=0.05
            )

    def test_one_that_is_too_small_is_refused(self, bench: Bench, folder: Path) -> None:
        bench.trt.least_budget = 500
        with pytest.raises(
            DeviceError, match=r"weight_streaming_budget=100: .*needs 500 at least; give a larger"
        ):
            bench.answer(folder, weight_streaming_budget=100)
        assert bench.cuda.leaks() == {}
        bench.answer(folder, weight_streaming_budget=500)

    def test_what_stays_must_fit_what_is_free(self, bench: Bench, folder: Path) -> None:
        path = folder / "engine.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "weight_bytes": 10 * STREAMABLE})
        )
        bench.cuda.gpu_memory = 9 * STREAMABLE + 1000
        with pytest.raises(DeviceError, match="smaller weight_streaming_budget"):
            bench.answer(folder, weight_streaming_budget=STREAMABLE)
        bench.cuda.gpu_memory += 2000
        bench.answer(folder, weight_streaming_budget=0)

    def test_a_plan_that_does_not_stream_has_no_budget(self, bench: Bench, tmp_path: Path) -> None:
        bench.build(graph_of(weights(1)), tmp_path / "engine")
        with pytest.raises(DeviceError, match="built without weight streaming; build it with"):
            bench.answer(tmp_path / "engine", weight_streaming_budget=0)
        bench.answer(tmp_path / "engine")

    def test_a_budget_is_bytes(self) -> None:
        with pytest.raises(DeviceError, match="weight_streaming_budget=-1: expected bytes"):
            ExecutorOptions(weight_streaming_budget=-1)


ENTRY = {"name": "w", "cast": "", "shared": True, "offset": 0, "bytes": 1, "sha256": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"refit": "some"}},
        {"weights": {"stripped": True}},
        {"weights": {"streamed": 1}},
        {"weights": []},
        {"weight_table": [{"name": "w"}]},
        {"weight_table": [{**ENTRY, "cast": "int4"}]},
        {"weight_table": [{**ENTRY, "offset": -1}]},
        {"weight_table": [{**ENTRY, "sha256": 5}]},
    ],
)
def test_other_forms_of_engine_json_are_refused(
    one: Bench, tmp_path: Path, change: dict[str, Any]
) -> None:
    one.build(graph_of(weights(1)), tmp_path / "engine")
    path = tmp_path / "engine" / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match="expected the facts of a TensorRT engine"):
        one.answer(tmp_path / "engine")


def test_copies_are_opened_too(one: Bench, tmp_path: Path) -> None:
    source, held = canonical(weights(1), tmp_path / "a")
    one.build(graph_of(weights(1)), tmp_path / "a" / "engine", source=held, stripped=True)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = tmp_path / "b" / source.relative_to(tmp_path / "a")
    np.testing.assert_allclose(
        one.answer(tmp_path / "b" / "engine", moved), expected(weights(1), X), atol=0.05
    )
