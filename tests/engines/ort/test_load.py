from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from fuselage.engines import host
from fuselage.engines.base import BuildConfig, LoadOptions
from fuselage.engines.ort.backend import OrtBackend
from fuselage.engines.ort.engine import OrtEngine
from fuselage.errors import BundleError, DeviceError, FeedError
from fuselage.graph.model import Graph
from fuselage.graph.tensors import Array

Feeds = Callable[[int, int], dict[str, Array]]


@pytest.fixture
def folder(tiny: Graph, config: BuildConfig, tmp_path: Path) -> Path:
    folder = tmp_path / "ort-cpu"
    folder.mkdir()
    OrtBackend("ort-cpu").build(tiny, config, folder)
    return folder


@pytest.fixture
def source(tiny: Graph, tmp_path: Path) -> Path:
    tiny.save(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def load(folder: Path, source: Path | None = None) -> OrtEngine:
    engine = OrtBackend("ort-cpu").load(folder, LoadOptions(threads=1, source=source))
    assert isinstance(engine, OrtEngine)
    return engine


def change_facts(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    facts = json.loads((folder / "engine.json").read_text())
    change(facts)
    (folder / "engine.json").write_text(json.dumps(facts))


def test_specs_are_those_of_the_graph(folder: Path, tiny: Graph) -> None:
    with load(folder) as engine:
        assert engine.inputs == tiny.inputs
        assert engine.outputs == tiny.outputs
        assert engine.target == "ort-cpu"
        assert engine.notes == ()


def test_session_neither_spins_nor_takes_all_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "physical_cores", lambda *_: 3)
    for asked, got in ((0, 3), (2, 2)):
        with OrtBackend("ort-cpu").load(folder, LoadOptions(threads=asked)) as engine:
            assert isinstance(engine, OrtEngine)
            options = engine._session.get_session_options()
            assert engine.threads == got
            assert options.intra_op_num_threads == got
            assert options.inter_op_num_threads == 1
            assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            assert options.graph_optimization_level == level


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda facts: facts.update(package_version="1.30.0"),
            r"ONNX Runtime version differs: built for 1\.30\.0, here is 1\.",
        ),
        (
            lambda facts: facts["cpu"].update(arch="riscv64"),
            "CPU architecture differs: built for riscv64, here is ",
        ),
        (
            lambda facts: facts["cpu"].update(flags=["avx", "avx2"]),
            "set of CPU flags differs: built for avx avx2, here is ",
        ),
    ],
)
def test_another_machine_gets_the_source_graph_and_is_told(
    change: Callable[[dict[str, Any]], None],
    reason: str,
    folder: Path,
    source: Path,
    feeds: Feeds,
) -> None:
    feed = feeds(5, 9)
    with load(folder) as engine:
        expected = engine.run(feed)["pooled"]
    change_facts(folder, change)

    with pytest.raises(DeviceError, match=reason + r".*no canonical graph to fall back on"):
        load(folder)
    (folder / "model.onnx").unlink()  # the engine's own graph is not touched any more
    with load(folder, source) as engine:
        assert engine.run(feed)["pooled"].tobytes() == expected.tobytes()
        [note] = engine.notes
    assert note.startswith("ort-cpu: ")
    assert note.endswith("running the canonical float32 graph, optimised at load")
    assert re.search(reason, note)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"ids": np.zeros((1, 2), np.int64)}, r"missing \['mask'\], unknown \[\]"),
        (
            {n: np.zeros((1, 2), np.int64) for n in ("ids", "mask", "more")},
            r"unknown \['more'\]",
        ),
        (
            {"ids": np.zeros((1, 2), np.int32), "mask": np.zeros((1, 2), np.int64)},
            "feed 'ids': expected dtype int64, got int32",
        ),
        (
            {"ids": np.zeros((1, 2), np.int64), "mask": np.zeros(2, np.int64)},
            "feed 'mask': expected rank 2",
        ),
        (
            {"ids": np.zeros((1, 2), np.int64), "mask": np.zeros((1, 3), np.int64)},
            "feed 'mask': axis 1",
        ),
        (
            {"ids": np.zeros((1, 0), np.int64), "mask": np.zeros((1, 0), np.int64)},
            "expected at least 1",
        ),
        (
            {"ids": np.full((1, 2), 100), "mask": np.ones((1, 2), np.int64)},
            r"idx=100 must be within .*; fed \{'ids': \[1, 2\], 'mask': \[1, 2\]\}",
        ),
    ],
)
def test_wrong_feeds_are_refused_and_the_engine_lives_on(
    broken: dict[str, Array],
    message: str,
    folder: Path,
    feeds: Feeds,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with load(folder) as engine:
        with pytest.raises(FeedError, match=message):
            engine.run(broken)
        assert engine.run(feeds(2, 3))["pooled"].shape == (2, 32)
    assert capfd.readouterr() == ("", "")


def test_a_strided_feed_gives_the_same_answer(folder: Path, feeds: Feeds) -> None:
    feed = feeds(4, 10)
    with load(folder) as engine:
        expected = engine.run({n: np.ascontiguousarray(a[:, ::2]) for n, a in feed.items()})
        found = engine.run({n: a[:, ::2] for n, a in feed.items()})
    assert found["pooled"].tobytes() == expected["pooled"].tobytes()


def test_threads_may_share_an_engine(folder: Path, feeds: Feeds) -> None:
    shapes = [(1 + n % 5, 1 + n % 7) for n in range(40)]
    with load(folder) as engine, ThreadPoolExecutor(4) as pool:
        alone = [engine.run(feeds(*shape))["pooled"] for shape in shapes]
        found = list(pool.map(lambda shape: engine.run(feeds(*shape))["pooled"], shapes))
    assert [a.tobytes() for a in found] == [a.tobytes() for a in alone]


def test_a_closed_engine_says_so(folder: Path, feeds: Feeds) -> None:
    engine = load(folder)
    engine.close()
    engine.close()
    with pytest.raises(DeviceError, match="the engine is closed"):
        engine.run(feeds(1, 1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"", "No graph was found"),
        ("model.onnx", b"\xff" * 64, "Protobuf parsing failed"),
        ("model.weights", b"\0" * 64, r"out of bounds|has 64 bytes"),
        ("engine.json", b"{", "expected the facts of an ONNX Runtime engine"),
        ("engine.json", b'{"target": "ort-cpu"}', "KeyError.*package_version"),
        ("engine.json", b"[]", "expected the facts"),
    ],
)
def test_damaged_files_are_bundle_errors(
    name: str, content: bytes, message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        load(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["model.onnx", "model.weights", "engine.json"])
def test_missing_files_are_bundle_errors(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        load(folder)


def test_an_engine_of_another_target_is_refused(folder: Path) -> None:
    change_facts(folder, lambda facts: facts.update(target="ort-cuda"))
    with pytest.raises(BundleError, match="expected the target 'ort-cpu', got 'ort-cuda'"):
        load(folder)


def test_weights_outside_the_folder_are_refused(folder: Path) -> None:
    model = folder / "model.onnx"
    (folder / "model.weights").rename(folder.parent / "m.weights")
    model.write_bytes(model.read_bytes().replace(b"model.weights", b"../.m.weights"))
    (folder.parent / "m.weights").rename(folder.parent / ".m.weights")
    with pytest.raises(BundleError, match="escapes model directory"):
        load(folder)


def test_cuda_without_its_provider_is_blocked_with_what_to_do() -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    blocker = OrtBackend("ort-cuda").run_blocker()
    assert blocker is not None
    assert "has no CUDAExecutionProvider, only " in blocker
    assert 'pip install "fuselage[gpu]"' in blocker
    assert OrtBackend("ort-cuda").build_blocker() == blocker


def test_cuda_without_a_gpu_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(host, "gpus", tuple)
    monkeypatch.setattr(host, "nvidia_driver", lambda: "580.65.06")
    blocker = OrtBackend("ort-cuda").run_blocker()
    assert blocker is not None
    assert blocker.startswith("no NVIDIA GPU answers (kernel driver: 580.65.06)")


def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCpu:
        def __init__(self, *_: object, providers: list[tuple[str, dict[str, str]]], **__: object):
            assert providers[0] == ("CUDAExecutionProvider", {"use_tf32": "0"})

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    change_facts(folder, lambda facts: facts.update(target="ort-cuda"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCpu)
    monkeypatch.setattr("fuselage.engines.ort.session.Provider.blocker", lambda _: None)
    with pytest.raises(DeviceError, match="CUDAExecutionProvider did not start"):
        OrtBackend("ort-cuda").load(folder, LoadOptions())


@pytest.mark.parametrize("found", [True, False])
def test_cuda_of_python_packages_is_loaded_when_the_provider_needs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, found: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    real, loaded = onnxruntime.InferenceSession, []

    class Session:
        def __init__(self, model: str, options: Any, **_: object) -> None:
            self._session = real(model, options, providers=["CPUExecutionProvider"])
            self._cuda = bool(loaded) and found

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"] if self._cuda else ["CPUExecutionProvider"]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

    def preload() -> None:
        loaded.append(True)
        sys.stdout.write("Failed to load libcublasLt.so.13: no such file\n")

    change_facts(folder, lambda facts: facts.update(target="ort-cuda"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr("fuselage.engines.ort.session.Provider.blocker", lambda _: None)
    if found:
        OrtBackend("ort-cuda").load(folder, LoadOptions(threads=1)).close()
    else:
        with pytest.raises(DeviceError, match=r"it needs \(Failed to load libcublasLt\.so\.13: no"):
            OrtBackend("ort-cuda").load(folder, LoadOptions(threads=1))
    assert loaded == [True]
    assert capsys.readouterr().out == ""


def test_without_the_package_the_blocker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for target, extra in (("ort-cpu", "cpu"), ("ort-cuda", "gpu")):
        blocker = OrtBackend(target).build_blocker()
        assert blocker is not None
        assert f'pip install "fuselage[{extra}]"' in blocker


_LIGHT = """
import sys
from pathlib import Path
import numpy as np
from fuselage.engines.base import LoadOptions
from fuselage.engines.ort.backend import OrtBackend
with OrtBackend("ort-cpu").load(Path(sys.argv[1]), LoadOptions(threads=1)) as engine:
    ones = np.ones((2, 3), np.int64)
    print(engine.run({"ids": ones, "mask": ones})["pooled"].shape)
heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "tensorrt", "tensorrt_rtx"}
print(sorted(heavy & set(sys.modules)))
"""


def test_loading_imports_nothing_that_only_building_needs(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["(2, 32)", "[]"]
    assert done.stderr == ""


@pytest.mark.parametrize("threads", [-1, 1025])
def test_absurd_numbers_of_threads_are_refused(folder: Path, threads: int) -> None:
    with pytest.raises(DeviceError, match=rf"threads: expected 0 .* to 1024, got {threads}"):
        OrtBackend("ort-cpu").load(folder, LoadOptions(threads=threads))
