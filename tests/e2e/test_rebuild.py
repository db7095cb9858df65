"""Engines for this machine from what is in a bundle: the same bytes, without PyTorch or text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fuselage.compiler.checks import proof
from fuselage.compiler.cli import run
from fuselage.compiler.rebuilding.rebuild import Wish, rebuild
from fuselage.compiler.recipe import changes
from fuselage.engines import host
from fuselage.engines.bundle import Bundle, BundleWriter
from fuselage.engines.targets import backend
from fuselage.errors import BuildError, BundleError, CalibrationError, VerificationError
from fuselage.graph.model import Graph

CHANGED = {"manifest.json", "report.json"}

WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sentence_transformers"):
            raise ImportError(f"{name} is not to be needed")
sys.meta_path.insert(0, Refuse())
from fuselage.compiler.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def copy(minilm_int8: Bundle, tmp_path: Path) -> Path:
    """The INT8 bundle of this machine, with its engine of ONNX Runtime."""
    return Path(shutil.copytree(minilm_int8.root, tmp_path / "bundle"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def without(content: dict[str, bytes]) -> dict[str, Any]:
    """Files by name; of engine.json all but how long it took."""
    found: dict[str, Any] = {}
    for name, data in content.items():
        if name.endswith("engine.json"):
            facts = json.loads(data)
            facts.pop("build_seconds")
            found[name] = facts
        elif name not in CHANGED:
            found[name] = data
    return found


def changed_manifest(folder: Path, drop: str = "", **report: Any) -> None:
    """Write the bundle again without a file, or with another report."""
    old = Bundle.open(folder).manifest
    new = folder.with_name("changed")
    with BundleWriter(new) as writer:
        for name in old.files:
            if name != drop:
                shutil.copyfile(folder / name, writer.path(name))
        if report:
            content = json.loads((folder / "report.json").read_text())
            writer.add("report.json", json.dumps({**content, **report}))
        writer.commit(old)
    shutil.rmtree(folder)
    new.rename(folder)


def test_the_same_bytes_without_pytorch(minilm_int8: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "rebuilt"
    command = ["rebuild", str(minilm_int8.root), "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert [v["target"] for v in said["rebuilt"]] == list(minilm_int8.targets)
    assert all(v["passed"] and v["cosine_min"] > 0.9 for v in said["rebuilt"])
    before, after = contents(minilm_int8.root), contents(out)
    assert without(after) == without(before)
    bundle = Bundle.open(out, full=True)
    manifest, old = bundle.manifest, minilm_int8.manifest
    assert manifest.verification["passed"]
    assert set(manifest.recipe["rebuilt"]) == set(bundle.targets)
    assert manifest.targets == old.targets
    report = json.loads(after["report.json"])
    assert report["latency"] == {}
    assert report["rebuilt"]["ort-cpu"]["reference"].startswith("the canonical graph")
    assert report["quantization"] == json.loads(before["report.json"])["quantization"]
    assert any(line.startswith("rebuilt: None") for line in changes(old.recipe, manifest.recipe))


def test_in_place_the_rest_stays(copy: Path) -> None:
    before = contents(copy)
    lines: list[str] = []

    class Watch:
        def started(self, stage: str) -> None:
            lines.append(stage)

        def advanced(self, done: int, total: int) -> None: ...
        def ended(self, stage: str, seconds: float) -> None: ...
        def note(self, line: str) -> None: ...

    rebuilt = rebuild(Wish(bundle=copy, targets=("ort-cpu",)), Watch())
    assert lines == ["build ort-cpu int8", "prove"]
    assert set(rebuilt.verdicts) == {"ort-cpu"}
    after = contents(copy)
    assert without(after) == without(before)
    other = "tensorrt-rtx/engine.json"
    assert after.get(other) == before.get(other)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_an_engine_that_answers_otherwise_changes_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copy)
    strict = proof.Gate(None, 1.1, 0.5)
    monkeypatch.setattr(proof, "GATES", {**proof.GATES, "int8": strict})
    with pytest.raises(VerificationError, match=r"not changed.*ort-cpu: mean cosine .* below 1\.1"):
        rebuild(Wish(bundle=copy, targets=("ort-cpu",)))
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_a_bundle_that_changes_meanwhile_is_not_replaced(
    copy: Path, minilm: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = proof.Proof.examine

    def examine(self: proof.Proof, *args: Any) -> Any:
        shutil.rmtree(copy)
        shutil.copytree(minilm.root, copy)
        return real(self, *args)

    monkeypatch.setattr(proof.Proof, "examine", examine)
    with pytest.raises(BundleError, match="changed by another process"):
        rebuild(Wish(bundle=copy, targets=("ort-cpu",)))
    assert contents(copy) == contents(minilm.root)


def test_what_cannot_be_built_here_is_an_error_when_it_was_asked_for(copy: Path) -> None:
    if backend("tensorrt").build_blocker() is None:
        pytest.skip("TensorRT builds here")
    with pytest.raises(BuildError, match=r"target 'tensorrt' cannot be built here: .*pip install"):
        rebuild(Wish(bundle=copy, targets=("tensorrt",)))
    with pytest.raises(BuildError, match="target 'npu': expected one of tensorrt, tensorrt-rtx"):
        rebuild(Wish(bundle=copy, targets=("npu",)))


def test_a_bundle_that_lacks_what_a_rebuild_needs(copy: Path) -> None:
    wish = Wish(bundle=copy, targets=("ort-cpu",))
    (copy / "calibration.json").write_text(
        (copy / "calibration.json").read_text().replace('"graph_digest": "', '"graph_digest": "0')
    )
    with pytest.raises(BundleError, match=r"calibration\.json"):
        rebuild(wish)
    changed_manifest_of_files(copy)
    with pytest.raises(CalibrationError, match="its ranges are of another graph"):
        rebuild(wish)
    changed_manifest(copy, drop="calibration.json")
    with pytest.raises(BuildError, match=r"precision 'int8' needs calibration\.json"):
        rebuild(wish)
    changed_manifest(copy, quantization=None)
    with pytest.raises(BuildError, match="has no quantised engine"):
        rebuild(wish)


def test_a_forged_report_is_refused_before_anything_is_built(copy: Path) -> None:
    wish = Wish(bundle=copy, targets=("ort-cpu",))
    quantization = json.loads((copy / "report.json").read_text())["quantization"]
    graph = Graph.load(copy / "graph/model.onnx").model.graph
    gelu = next(node.name for node in graph if node.op_type == "Gelu")
    for kept, message in (
        ("all", "report.json: quantization: 'kept_float' must be a list"),
        ([{"node": "nowhere"}], "report.json: quantization: .* 'nowhere', which is neither a node"),
        (
            [{"node": gelu}],
            f"kept_float names other GEMMs than stay in float here, such as '{gelu}",
        ),
    ):
        changed_manifest(copy, quantization={**quantization, "kept_float": kept})
        with pytest.raises(BundleError, match=message):
            rebuild(wish)


def changed_manifest_of_files(folder: Path) -> None:
    """Forge the hashes of the files as they are now."""
    path = folder / "manifest.json"
    from fuselage.engines.manifest import Manifest

    old = json.loads(path.read_text())
    new = folder.with_name("forged")
    with BundleWriter(new) as writer:
        for name in old["files"]:
            shutil.copyfile(folder / name, writer.path(name))
        writer.commit(Manifest.from_json(path.read_text()))
    shutil.rmtree(folder)
    new.rename(folder)


def test_an_engine_beside_the_others_is_named_by_the_gpu(
    minilm: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tensorrt-rtx" not in minilm.targets:
        pytest.skip("TensorRT-RTX is not installed")
    wish = Wish(bundle=minilm.root, targets=("tensorrt-rtx",), out=tmp_path / "two", beside=True)
    monkeypatch.setattr(host, "gpus", tuple)
    with pytest.raises(BuildError, match="named by the GPU of this machine, and none answers"):
        rebuild(wish)
    gpu = host.Gpu(name="NVIDIA L4", compute_capability="SM89", memory_bytes=24 << 30)
    monkeypatch.setattr(host, "gpus", lambda: (gpu,))
    bundle = rebuild(wish).bundle
    assert bundle.targets == ("tensorrt-rtx", "tensorrt-rtx@SM89", "ort-cpu")
    held = bundle.manifest.targets
    assert held["tensorrt-rtx@SM89"].compute_capabilities == ("SM89",)
    assert held["tensorrt-rtx"] == minilm.manifest.targets["tensorrt-rtx"]
    assert held["tensorrt-rtx@SM89"].precision == "fp16"
    plans = [bundle.folder(name) / "engine.plan" for name in bundle.targets[:2]]
    assert plans[0].read_bytes() == (minilm.root / "tensorrt-rtx/engine.plan").read_bytes()
    assert plans[1].read_bytes() != plans[0].read_bytes()


def test_the_command_shows_what_was_proved(
    minilm: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rebuilt"
    assert run(["rebuild", str(minilm.root), "--target", "ort-cpu", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "ort-cpu" in shown.out
    assert "fp32" in shown.out
    assert "done build ort-cpu fp32" in " ".join(shown.err.split())
    assert Bundle.open(out).manifest.verification["passed"]
