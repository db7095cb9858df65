"""Timings of kernels from build to build: taken, merged, left out when TensorRT rejects them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from fuselage.engines.base import BuildConfig
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.errors import BuildError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import ShapeProfile


class Memory:
    """A store; ``meanwhile`` is what another build keeps while this one runs."""

    def __init__(self, content: bytes | None = None, meanwhile: bytes | None = None) -> None:
        self.content = content
        self.meanwhile = meanwhile
        self.reads = 0

    def read(self) -> bytes | None:
        self.reads += 1
        return self.content

    def update(self, merge: Callable[[bytes | None], bytes]) -> None:
        self.content = merge(self.meanwhile or self.content)


def graph_of(*operators: str) -> Graph:
    steps = [f"v{n + 1} = {op} (v{n})" for n, op in enumerate(operators)]
    last = f"v{len(operators)}"
    text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        chain (float[batch, 4] v0) => (float[batch, 4] {last}) {{ {" ".join(steps)} }}
    """
    return Graph(ir.from_proto(onnx.parser.parse_model(text)))


class Bench:
    def __init__(
        self, fakes: ModuleType, version: str, patch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        cuda = fakes.FakeCuda()
        self.trt = fakes.FakeTensorRt(version, cuda)
        package = version.split("-")[0]
        patch.setitem(sys.modules, package, self.trt)
        patch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        self.backend = TensorRtBackend.of(package.replace("_", "-"))
        self.folder = folder

    def build(self, store: Memory | None, *operators: str) -> dict[str, Any]:
        profile = ShapeProfile.parse("batch=1:2:4")
        config = BuildConfig(profile=profile, timings=store)
        return dict(self.backend.build(graph_of(*operators), config, self.folder).facts)


@pytest.fixture(params=["tensorrt-10.16.1.11", "tensorrt-11.4.0.106"])
def bench(
    fakes: ModuleType,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Bench:
    return Bench(fakes, request.param, monkeypatch, tmp_path)


def test_a_kernel_is_timed_once(bench: Bench) -> None:
    store = Memory()
    bench.build(store, "Relu", "Abs")
    assert bench.trt.timed == 2
    bench.build(store, "Relu", "Exp", "Abs")
    assert bench.trt.timed == 3
    assert json.loads(store.content or b"") == ["Abs", "Exp", "Relu"]
    bench.build(None, "Relu")  # --no-cache
    assert bench.trt.timed == 3


def test_what_another_build_kept_meanwhile_stays(bench: Bench) -> None:
    store = Memory(b'["Relu"]', meanwhile=b'["Tanh", "Relu"]')
    bench.build(store, "Relu", "Abs")
    assert json.loads(store.content or b"") == ["Abs", "Relu", "Tanh"]


def test_what_tensorrt_cannot_read_is_a_note_and_is_replaced(bench: Bench) -> None:
    store = Memory(b"\xff of another version")
    facts = bench.build(store, "Relu")
    (note,) = [line for line in facts["warnings"] if "timing" in line]
    assert note.startswith("the timings of kernels kept from earlier builds were not used (")
    assert "Failed to deserialize timing cache" in note
    assert json.loads(store.content or b"") == ["Relu"]
    assert not any("timing" in line for line in bench.build(store, "Relu")["warnings"])
    assert bench.trt.timed == 1


def test_what_is_of_another_gpu_is_a_note(bench: Bench) -> None:
    bench.trt.faults = {"timing-cache"}
    facts = bench.build(Memory(b'["Relu"]'), "Relu")
    assert any("it is of another GPU, driver or version" in line for line in facts["warnings"])
    assert bench.trt.timed == 1


def test_a_damaged_one_that_came_meanwhile_says_nothing(bench: Bench) -> None:
    store = Memory(meanwhile=b"garbage")
    facts = bench.build(store, "Relu")
    assert not any("timing" in line for line in facts["warnings"])
    assert json.loads(store.content or b"") == ["Relu"]


def test_a_build_that_fails_keeps_nothing(bench: Bench) -> None:
    bench.trt.faults = {"build"}
    store = Memory(b'["Relu"]')
    with pytest.raises(BuildError, match="cannot build the engine"):
        bench.build(store, "Abs")
    assert store.content == b'["Relu"]'


def test_rtx_has_none(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = Bench(fakes, "tensorrt_rtx-1.7.1.116", monkeypatch, tmp_path)
    store = Memory()
    bench.build(store, "Relu")
    assert (store.reads, store.content) == (0, None)
