from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fuselage
from fuselage.engines import bundle as module
from fuselage.engines.base import Engine, ExecutorOptions, LoadOptions
from fuselage.engines.bundle import Bundle, BundleWriter
from fuselage.engines.manifest import Manifest
from fuselage.engines.mismatch import Mismatch
from fuselage.engines.strict_json import canonical_json, json_digest
from fuselage.errors import BundleError, DeviceError
from fuselage.graph.tensors import Array

Feeds = Callable[[int, int], dict[str, Array]]

FILES = (
    "graph/model.onnx",
    "graph/model.weights",
    "manifest.json",
    "ort-cpu/engine.json",
    "ort-cpu/model.onnx",
    "ort-cpu/model.weights",
    "task.json",
    "tokenizer.json",
)


def flip(path: Path, position: int, bit: int = 0x01) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Forge a manifest whose digests fit."""
    body = json.loads((folder / "manifest.json").read_text())
    del body["digest"]
    change(body)
    text = canonical_json({**body, "digest": json_digest(body)})
    (folder / "manifest.json").write_text(text)


class FakeBackend:
    """A target whose blocker and load failure a test chooses."""

    def __init__(self, blocker: str | None = None, error: Exception | None = None) -> None:
        self.blocker, self.error = blocker, error
        self.loads: list[LoadOptions] = []
        self.differs: tuple[Mismatch, ...] = ()

    def run_blocker(self) -> str | None:
        return self.blocker

    def mismatches(self, _: Path) -> tuple[Mismatch, ...]:
        return self.differs

    def load(self, _: Path, options: LoadOptions) -> Engine:
        self.loads.append(options)
        if self.error is not None:
            raise self.error
        raise AssertionError("not reached in these tests")


@pytest.fixture
def two_targets(folder: Path, tmp_path: Path) -> Path:
    """The bundle with a plan for ``tensorrt`` beside its ``ort-cpu``."""
    manifest = Bundle.open(folder).manifest
    with BundleWriter(tmp_path / "two") as writer:
        for name in manifest.files:
            shutil.copyfile(folder / name, writer.path(name))
        writer.add("tensorrt/engine.json", '{"target": "tensorrt"}')
        writer.add("tensorrt/engine.plan", b"plan")
        entry = replace(manifest.targets["ort-cpu"], folder="tensorrt", precision="fp16")
        writer.commit(replace(manifest, targets={**manifest.targets, "tensorrt": entry}))
    return tmp_path / "two"


def offer(monkeypatch: pytest.MonkeyPatch, **fakes: FakeBackend) -> None:
    real = module.backend
    monkeypatch.setattr(module, "backend", lambda name: fakes.get(name) or real(name))


def test_a_whole_bundle_opens_and_runs(folder: Path, feeds: Feeds) -> None:
    bundle = Bundle.open(folder, full=True)
    assert bundle.targets == ("ort-cpu",)
    assert sorted([*bundle.manifest.files, "manifest.json"]) == sorted(FILES)
    assert bundle.path("tokenizer.json") == folder / "tokenizer.json"
    assert bundle.source == folder / "graph" / "model.onnx"
    assert bundle.blockers() == {"ort-cpu": None}
    with bundle.engine() as engine, bundle.engine("ort-cpu", threads=2) as named:
        assert engine.notes == ()
        feed = feeds(3, 5)
        assert engine.run(feed)["pooled"].tobytes() == named.run(feed)["pooled"].tobytes()


@pytest.mark.parametrize("target", [None, "tensorrt"])
def test_the_executors_options_reach_the_backend_with_and_without_the_fallback(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch, target: str | None
) -> None:
    fake = FakeBackend(error=DeviceError("no GPU"))
    offer(monkeypatch, tensorrt=fake, **{"ort-cpu": FakeBackend("not asked")})
    executor = ExecutorOptions(lanes=3, buckets={"batch": (4, 8)})
    with pytest.raises(DeviceError, match="no GPU"):
        Bundle.open(two_targets).engine(target, threads=2, executor=executor)
    assert [(options.executor, options.threads) for options in fake.loads] == [(executor, 2)] * 2
    assert [options.source is None for options in fake.loads] == [True, False]


def test_load_hands_the_executors_options_on(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, executor = FakeBackend(error=DeviceError("no GPU")), ExecutorOptions(lanes=5)
    offer(monkeypatch, tensorrt=fake)
    with pytest.raises(DeviceError, match="no GPU"):
        fuselage.load(two_targets, target="tensorrt", executor=executor)
    assert [options.executor for options in fake.loads] == [executor] * 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 1.0])
def test_one_flipped_byte_in_any_file_is_found(name: str, where: float, folder: Path) -> None:
    path = folder / name
    flip(path, int(where * (path.stat().st_size - 1)))

    with pytest.raises(BundleError, match=path.name.replace(".", r"\.")):
        Bundle.open(folder, full=True)
    if name.startswith("graph/"):
        bundle = Bundle.open(folder)
        bundle.engine().close()  # it does not use the canonical graph
        with pytest.raises(BundleError, match="the file is damaged"):
            _ = bundle.source
    else:
        with pytest.raises(BundleError, match="damaged"):
            Bundle.open(folder).engine()


def test_the_fallback_graph_is_hashed_before_it_runs(
    folder: Path, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fuselage.engines.ort.facts as facts

    monkeypatch.setattr(facts, "runtime_version", lambda: "9.9.9")
    with Bundle.open(folder).engine() as engine:
        assert (
            "built for 1.31.1, here is 9.9.9; running the canonical float32 graph"
            in engine.notes[0]
        )
        assert engine.run(feeds(2, 4))["pooled"].shape == (2, 32)
    flip(folder / "graph/model.weights", 100)
    with pytest.raises(BundleError, match=r"graph/model\.weights: sha256 is .* damaged"):
        Bundle.open(folder).engine()


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found_on_open(name: str, folder: Path) -> None:
    path = folder / name
    os.truncate(path, path.stat().st_size - 1)
    message = "not JSON|not what was written" if name == "manifest.json" else "truncated"
    with pytest.raises(BundleError, match=message):
        Bundle.open(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_missing_file_is_found_on_open(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: the manifest lists it, but it is missing"):
        Bundle.open(folder)


def test_a_file_that_grew_is_found_on_open(folder: Path) -> None:
    with (folder / "task.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleError, match=r"task\.json: expected a file of 21 bytes, found 22"):
        Bundle.open(folder)


def test_an_extra_file_in_a_targets_folder_is_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    Bundle.open(folder)
    (folder / "ort-cpu" / "deep").mkdir()
    (folder / "ort-cpu" / "deep" / "plugin.so").write_bytes(b"code")
    with pytest.raises(BundleError, match=r"ort-cpu/deep/plugin\.so: not in the manifest"):
        Bundle.open(folder)


def test_a_forged_path_out_of_the_bundle_is_refused(folder: Path) -> None:
    (folder.parent / "secret.txt").write_text("secret")

    def escape(body: dict[str, Any]) -> None:
        body["files"]["../secret.txt"] = body["files"]["task.json"]

    rewrite_manifest(folder, escape)
    with pytest.raises(BundleError, match=r"'\.\./secret\.txt' is not a plain relative path"):
        Bundle.open(folder)


@pytest.mark.parametrize("linked", ["tokenizer.json", "graph"])
def test_a_link_out_of_the_bundle_is_refused(linked: str, folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / linked).rename(outside)
    (folder / linked).symlink_to(outside)
    with pytest.raises(BundleError, match="is a link out of the bundle"):
        Bundle.open(folder)


def test_a_bundle_behind_a_link_opens(folder: Path) -> None:
    (folder.parent / "current").symlink_to(folder)
    Bundle.open(folder.parent / "current", full=True).engine().close()


def test_another_schema_is_refused(folder: Path) -> None:
    rewrite_manifest(folder, lambda body: body.update(schema=7))
    with pytest.raises(BundleError, match="schema 7 is not known"):
        Bundle.open(folder)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="but it does not exist; make one with"):
        Bundle.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="but it is a file"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match=r"no manifest\.json and no engine in it"):
        Bundle.open(tmp_path)


def test_names_the_bundle_lacks(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"this bundle has no 'report\.html'"):
        bundle.path("report.html")
    with pytest.raises(BundleError, match="not a plain relative path"):
        bundle.path("../bundle/task.json")
    with pytest.raises(
        BundleError, match=r"no target 'tensorrt', it has ort-cpu; build one .* --target tensorrt"
    ):
        bundle.engine("tensorrt")
    with pytest.raises(BundleError, match=r"no target 'npu', it has ort-cpu; fuselage knows tens"):
        bundle.engine("npu")


def test_the_best_target_that_runs_is_taken_and_the_reason_noted(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, tensorrt=FakeBackend("no NVIDIA driver"))
    bundle = Bundle.open(two_targets)
    assert bundle.targets == ("tensorrt", "ort-cpu")
    assert bundle.blockers() == {"tensorrt": "no NVIDIA driver", "ort-cpu": None}
    with bundle.engine() as engine:
        assert engine.target == "ort-cpu"
        assert engine.notes == ("tensorrt does not run here: no NVIDIA driver",)


def test_a_device_error_at_load_passes_on_to_the_next(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, tensorrt=FakeBackend(error=DeviceError("plan is for SM89")))
    with Bundle.open(two_targets).engine() as engine:
        assert engine.target == "ort-cpu"
        assert engine.notes == ("tensorrt does not run here: plan is for SM89",)


def test_a_damaged_better_target_is_not_passed_over(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, tensorrt=FakeBackend())
    flip(two_targets / "tensorrt/engine.plan", 2)
    with pytest.raises(BundleError, match=r"engine\.plan: sha256"):
        Bundle.open(two_targets).engine()


def test_a_plan_is_hashed_before_the_backend_sees_it(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeBackend()
    offer(monkeypatch, tensorrt=fake)
    flip(two_targets / "tensorrt/engine.plan", 2)
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(two_targets).engine("tensorrt")
    assert fake.loads == []


def test_an_asked_target_that_cannot_run_names_those_that_do(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, tensorrt=FakeBackend("no NVIDIA driver"))
    with pytest.raises(
        DeviceError,
        match="tensorrt does not run here: no NVIDIA driver; targets of this bundle that do: ort-c",
    ):
        Bundle.open(two_targets).engine("tensorrt")


def test_when_nothing_runs_every_reason_is_given(
    two_targets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = {"tensorrt": FakeBackend("no driver"), "ort-cpu": FakeBackend("no onnxruntime")}
    offer(monkeypatch, **blocked)
    with pytest.raises(DeviceError, match=r"tensorrt .*: no driver; ort-cpu .*: no onnxruntime"):
        Bundle.open(two_targets).engine()


def test_a_target_of_a_later_version_is_passed_over(folder: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(folder).manifest
    with BundleWriter(tmp_path / "next") as writer:
        for name in manifest.files:
            shutil.copyfile(folder / name, writer.path(name))
        writer.add("npu/engine.json", "{}")
        entry = replace(manifest.targets["ort-cpu"], folder="npu")
        writer.commit(replace(manifest, targets={**manifest.targets, "npu": entry}))
    bundle = Bundle.open(tmp_path / "next")
    assert bundle.targets == ("ort-cpu", "npu")
    with pytest.raises(DeviceError, match="this fuselage does not know the target"):
        bundle.engine("npu")


def test_engines_without_a_manifest_need_trust(two_targets: Path, feeds: Feeds) -> None:
    (two_targets / "manifest.json").unlink()
    with pytest.raises(
        BundleError,
        match=r"no manifest\.json, .*\(ort-cpu, tensorrt\) .*a TensorRT plan is code .*--trust",
    ):
        Bundle.open(two_targets)

    bundle = Bundle.open(two_targets, trust=True)
    assert not bundle.checked
    assert bundle.manifest.weights == "unknown"
    assert bundle.manifest.verification["passed"] is False
    assert bundle.path("tokenizer.json").is_file()
    with pytest.raises(BundleError, match=r"has no 'report\.json'"):
        bundle.path("report.json")
    with bundle.engine("ort-cpu") as engine:
        assert "opened without a manifest; nothing in it was checked" in engine.notes[0]
        assert engine.run(feeds(1, 2))["pooled"].shape == (1, 32)


def test_trust_does_not_loosen_a_bundle_with_a_manifest(folder: Path) -> None:
    flip(folder / "task.json", 3)
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(folder, trust=True)


def test_each_folder_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = module.check_hash

    def count(path: Path, entry: Any) -> None:
        hashed.append(path.relative_to(folder).as_posix())
        real(path, entry)

    monkeypatch.setattr(module, "check_hash", count)
    bundle = Bundle.open(folder)
    assert sorted(hashed) == ["task.json", "tokenizer.json"]
    hashed.clear()
    bundle.engine().close()
    bundle.engine().close()
    assert sorted(hashed) == [name for name in FILES if name.startswith("ort-cpu/")]


_RUN = """
import sys
import numpy as np
from fuselage.engines.bundle import Bundle
ones = np.ones((1, 4), np.int64)
with Bundle.open(sys.argv[1]).engine() as engine:
    print(engine.run({"ids": ones, "mask": ones})["pooled"].dtype)
heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "tensorrt_rtx"}
print(sorted(heavy & set(sys.modules)))
"""


def test_running_a_bundle_imports_no_build_package(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["float32", "[]"]


def test_manifest_is_the_one_that_was_committed(
    folder: Path, manifest: Callable[..., Manifest]
) -> None:
    held = Bundle.open(folder).manifest
    assert replace(held, files={}) == manifest()
    assert held.files["task.json"].bytes == 21
    assert np.sum([entry.bytes for entry in held.files.values()]) == sum(
        (folder / name).stat().st_size for name in held.files
    )


def test_a_bundle_that_did_not_pass_says_so_whenever_it_is_opened(folder: Path) -> None:
    with Bundle.open(folder).engine() as engine:
        assert engine.notes == ()
    rewrite_manifest(folder, lambda body: body["verification"].update(passed=False))
    with Bundle.open(folder).engine("ort-cpu") as engine:
        assert "this bundle did not pass its verification" in engine.notes[0]
