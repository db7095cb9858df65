"""A clock that moves only when told, and calls that move it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from fuselage.compiler.models.random_tokenizer import random_tokenizer_json
from fuselage.engines.base import BuildConfig
from fuselage.engines.bundle import SOURCE, BundleWriter
from fuselage.engines.manifest import Manifest, ModelId, TargetEntry
from fuselage.engines.ort.backend import OrtBackend
from fuselage.engines.text.task import TaskSpec
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile
from fuselage.proof.timing import bench
from fuselage.proof.timing.business import Business


@dataclass
class FakeClock:
    """Time passes while a call runs or somebody waits, and at no other moment.

    Attributes:
        time: nanoseconds so far.
        cores: of each nanosecond of a call, so many are CPU time.
        waits: moments that were waited for.
    """

    time: int = 0
    cores: int = 2
    busy: int = 0
    waits: list[int] = field(default_factory=list)

    def now(self) -> int:
        return self.time

    def cpu(self) -> int:
        return self.busy

    def wait_until(self, moment: int) -> None:
        self.waits.append(moment)
        self.time = max(self.time, moment)

    def run(self, nanoseconds: float) -> None:
        self.time += int(nanoseconds)
        self.busy += int(nanoseconds) * self.cores


Noise = Callable[[int, random.Random], float]
"""Time and a generator to a factor of all calls made then."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def caller(clock: FakeClock) -> Callable[..., Callable[[int], None]]:
    """caller(ns): a call that takes so long; caller(ns, noise, rng) times what noise says."""

    def make(
        nanoseconds: float, noise: Noise | None = None, rng: random.Random | None = None
    ) -> Callable[[int], None]:
        def call(number: int) -> None:
            del number
            factor = 1.0 if noise is None or rng is None else noise(clock.time, rng)
            clock.run(nanoseconds * factor)

        return call

    return make


# --- a bundle that takes milliseconds to build and to run

WORDS, WIDTH = 100, 16
PROFILE = {"batch": (1, 2, 8), "sequence": (1, 8, 16)}

_TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
tiny (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, 16] sentence_embedding)
{
    x = Gather(words, input_ids)
    y = MatMul(x, w)
    m = Cast<to = 1>(attention_mask)
    m3 = Unsqueeze(m, last)
    kept = Mul(y, m3)
    sentence_embedding = ReduceSum<keepdims = 0>(kept, middle)
}
"""


def tiny_graph() -> Graph:
    rng = np.random.default_rng(0)
    weights = {
        "words": rng.normal(0, 1, (WORDS, WIDTH)).astype(np.float32),
        "w": rng.normal(0, 1, (WIDTH, WIDTH)).astype(np.float32),
        "last": np.array([2], np.int64),
        "middle": np.array([1], np.int64),
    }
    tensors = [ir.tensor(array, name=name) for name, array in weights.items()]
    return Graph(ir.from_onnx_text(_TEXT, tensors))


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    tiny_graph().save(path)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    task = TaskSpec(
        task="embedding",
        inputs=("input_ids", "attention_mask"),
        outputs=("sentence_embedding",),
        max_tokens=16,
        dimension=WIDTH,
    )
    manifest = Manifest(
        model=ModelId(id="tiny/encoder", revision=None, digest="d" * 64),
        weights="random",
        task="embedding",
        recipe={},
        passes={"ort-cpu": ()},
        targets={
            "ort-cpu": TargetEntry(precision="fp32", folder="ort-cpu", versions={}, profile=PROFILE)
        },
        verification={"passed": True},
    )
    config = BuildConfig(profile=ShapeProfile(PROFILE), threads=1)
    with BundleWriter(folder) as writer:
        writer.add("tokenizer.json", random_tokenizer_json({"vocab_size": WORDS}).decode())
        writer.add("task.json", task.to_json())
        tiny_graph().save(writer.path(SOURCE))
        OrtBackend("ort-cpu").build(tiny_graph(), config, writer.folder("ort-cpu"))
        writer.commit(manifest)
    return folder


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nobody else uses, whatever this one does."""
    still = Business(
        seconds=1.0,
        processors=2,
        others=0.01,
        stolen=0.0,
        waiting=0.0,
        preempted=3.0,
        reason="",
    )
    monkeypatch.setattr(bench, "business", lambda *_: still)
    monkeypatch.setattr(bench, "_GLANCE", 0.0)
