"""What every engine does: ONNX Runtime, and TensorRT over a fake GPU that runs the same graph."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig, Engine, LoadOptions
from fuselage.engines.ort.backend import OrtBackend
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.engines.tensorrt.facts import PlanFacts
from fuselage.errors import DeviceError, FeedError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile

TARGETS = ["ort-cpu", "tensorrt-10.16.1.11", "tensorrt-11.4.0.106", "tensorrt_rtx-1.7.1.116"]
HIDDEN = 8


def weights(seed: int, *shape: int) -> tuple[np.ndarray, str]:
    """Random float32 weights and their ONNX text."""
    array = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    return array, "{" + ", ".join(f"{value:.9g}" for value in array.ravel()) + "}"


TABLE, TABLE_TEXT = weights(0, 50, HIDDEN)
LINEAR, LINEAR_TEXT = weights(1, HIDDEN, HIDDEN)
TEXT = f"""
<ir_version: 10, opset_import: ["" : 23]>
tiny (int64[batch, sequence] ids, int64[batch, sequence] mask)
    => (float[batch, sequence, {HIDDEN}] hidden, float[batch, {HIDDEN}] pooled)
    <int64[1] middle = {{1}}, int64[1] last = {{2}},
     float[50, {HIDDEN}] table = {TABLE_TEXT}, float[{HIDDEN}, {HIDDEN}] linear = {LINEAR_TEXT}>
{{
    tokens = Gather(table, ids)
    kept = Cast<to = 1>(mask)
    weight = Unsqueeze(kept, last)
    product = MatMul(tokens, linear)
    act = Tanh(product)
    hidden = Mul(act, weight)
    total = ReduceSum<keepdims = 0>(hidden, middle)
    count = ReduceSum<keepdims = 1>(kept, middle)
    pooled = Div(total, count)
}}
"""


def expect(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    weight = feeds["mask"][..., None].astype(np.float32)
    hidden = np.tanh(TABLE[feeds["ids"]] @ LINEAR) * weight
    return {"hidden": hidden, "pooled": hidden.sum(axis=1) / weight.sum(axis=1)}


def feeds(batch: int, sequence: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.arange(sequence) < random.integers(1, sequence + 1, (batch, 1))
    return {"ids": random.integers(0, 50, (batch, sequence)), "mask": mask.astype(np.int64)}


def check(outputs: dict[str, Any], fed: dict[str, np.ndarray]) -> None:
    for name, expected in expect(fed).items():
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


@pytest.fixture(scope="module")
def model() -> Graph:
    return Graph(ir.from_onnx_text(TEXT))


@pytest.fixture(params=TARGETS)
def engine(
    model: Graph,
    fakes: ModuleType,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Engine]:
    """An engine that its backend loaded from a folder."""
    if request.param == "ort-cpu":
        backend: Any = ort_backend(model, tmp_path)
    else:
        backend = fake_backend(model, fakes, request.param, tmp_path, monkeypatch)
    with backend.load(tmp_path, LoadOptions(threads=1)) as opened:
        yield opened


def ort_backend(model: Graph, folder: Path) -> OrtBackend:
    backend = OrtBackend("ort-cpu")
    profile = ShapeProfile.parse("batch=1:2:64,sequence=1:16:64")
    backend.build(model, BuildConfig(profile=profile, threads=1), folder)
    return backend


def fake_backend(
    model: Graph, fakes: ModuleType, version: str, folder: Path, patch: pytest.MonkeyPatch
) -> TensorRtBackend:
    plan = fakes.onnx_plan(ir.to_proto(model.model).SerializeToString())
    cuda = fakes.FakeCuda()
    package = version.split("-")[0]
    patch.setitem(sys.modules, package, fakes.FakeTensorRt(version, cuda))
    patch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    target = package.replace("_", "-")
    facts = {
        "target": target,
        "package_version": version.split("-")[1],
        "compute_capabilities": ["SM89"],
        "bytes": len(plan),
        "profile": {"batch": [1, 2, 64], "sequence": [1, 16, 64]},
        "inputs": PlanFacts.tensors(model.inputs),
        "outputs": PlanFacts.tensors(model.outputs),
    }
    (folder / "engine.plan").write_bytes(plan)
    (folder / "engine.json").write_text(json.dumps(facts))
    return TensorRtBackend.of(target)


SHAPES = ((1, 1), (3, 7), (8, 16), (5, 13), (2, 64))


def test_answers_are_the_models(engine: Engine) -> None:
    assert [str(spec) for spec in engine.inputs] == [
        "ids: int64[batch, sequence]",
        "mask: int64[batch, sequence]",
    ]
    for seed, shape in enumerate(SHAPES * 4):
        check(engine.run(feeds(*shape, seed)), feeds(*shape, seed))
    assert engine.notes == ()


def test_threads_get_their_own_answers(engine: Engine) -> None:
    def work(thread: int) -> None:
        for call in range(20):
            fed = feeds(*SHAPES[(thread + call) % len(SHAPES)], seed=100 * thread + call)
            check(engine.run(fed), fed)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, thread) for thread in range(8)]:
            done.result()


def test_awaiting_does_not_block_the_loop(engine: Engine) -> None:
    async def main() -> None:
        requests = [feeds(*SHAPES[seed % len(SHAPES)], seed) for seed in range(40)]
        answers = asyncio.gather(*(engine.run_async(fed) for fed in requests))
        ticks = 0
        while not answers.done():
            await asyncio.sleep(0)
            ticks += 1
        for outputs, fed in zip(await answers, requests, strict=True):
            check(outputs, fed)
        assert ticks > 1

    asyncio.run(main())


def test_awaiting_raises_what_running_does(engine: Engine) -> None:
    with pytest.raises(FeedError, match="missing"):
        asyncio.run(engine.run_async({}))


def test_a_cancelled_wait_leaves_the_engine_usable(engine: Engine) -> None:
    async def main() -> None:
        task = asyncio.create_task(engine.run_async(feeds(8, 16)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fed = feeds(3, 7)
        check(await engine.run_async(fed), fed)

    asyncio.run(main())


def test_the_callers_arrays_are_free_and_the_outputs_are_his(engine: Engine) -> None:
    fed = feeds(3, 7)
    outputs = engine.run(fed)
    kept = {name: array.copy() for name, array in outputs.items()}
    for array in fed.values():
        array[...] = 0
    engine.run(feeds(3, 7, seed=1))
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": None}, r"missing \['mask'\]"),
        ({"ids": np.zeros((2, 3), np.int32)}, "expected dtype int64, got int32"),
        ({"ids": np.zeros((2, 3, 1), np.int64)}, "expected rank 2"),
        ({"ids": np.zeros((2, 4), np.int64)}, "has size 3, expected 4"),
        ({"ids": [[1, 2, 3]]}, "expected a numpy array, got list"),
    ],
)
def test_wrong_feeds_are_named(engine: Engine, change: dict[str, Any], message: str) -> None:
    fed = {name: array for name, array in (feeds(2, 3) | change).items() if array is not None}
    with pytest.raises(FeedError, match=message):
        engine.run(fed)
    check(engine.run(feeds(2, 3)), feeds(2, 3))


def test_closing_is_idempotent_and_final(engine: Engine) -> None:
    threads = [threading.Thread(target=engine.close) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    with pytest.raises(DeviceError, match="closed"):
        engine.run(feeds(1, 1))


class TestDlpackOnTheCpu:
    @pytest.fixture
    def cpu(self, model: Graph, tmp_path: Path) -> Iterator[Engine]:
        with ort_backend(model, tmp_path).load(tmp_path, LoadOptions(threads=1)) as opened:
            yield opened

    def test_tensors_of_other_libraries_in_and_out(self, cpu: Engine) -> None:
        torch = pytest.importorskip("torch")
        fed = feeds(3, 7)
        tensors = {name: torch.from_numpy(array) for name, array in fed.items()}
        outputs = cpu.run_dlpack(tensors)
        check({name: np.from_dlpack(tensor) for name, tensor in outputs.items()}, fed)
        assert torch.from_dlpack(outputs["pooled"]).shape == (3, HIDDEN)

    def test_outputs_outlive_the_engine(self, cpu: Engine) -> None:
        fed = feeds(3, 7)
        outputs = cpu.run_dlpack(fed)
        cpu.close()
        check({name: np.from_dlpack(tensor) for name, tensor in outputs.items()}, fed)
        with pytest.raises(DeviceError, match="closed"):
            cpu.run_dlpack(fed)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"ids": np.zeros((2, 3), np.int32)}, "expected dtype int64, got int32"),
            ({"ids": np.zeros((2, 4), np.int64)}, "has size 3, expected 4"),
            ({"ids": np.zeros((4, 3), np.int64)[::2]}, "expected a contiguous DLPack tensor"),
            ({"ids": 7}, "expected a contiguous DLPack tensor, got int"),
            ({"ids": np.full((2, 3), 50)}, "indices element out of data bounds"),
        ],
    )
    def test_wrong_tensors_are_named(
        self, cpu: Engine, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(FeedError, match=message):
            cpu.run_dlpack(feeds(2, 3) | change)

    def test_a_stream_is_refused(self, cpu: Engine) -> None:
        with pytest.raises(FeedError, match="expected no stream, got 16"):
            cpu.run_dlpack(feeds(2, 3), stream=16)
