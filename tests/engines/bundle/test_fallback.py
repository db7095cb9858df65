"""Which engine of a bundle runs, and what is said when it is not the one asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fuselage
from fuselage.engines import bundle as module
from fuselage.engines.base import Engine, LoadOptions
from fuselage.engines.bundle import Bundle, BundleWriter, FallbackWarning
from fuselage.engines.choice import variant
from fuselage.engines.manifest import Manifest
from fuselage.engines.mismatch import Mismatch
from fuselage.engines.tensorrt.cuda import Cuda
from fuselage.engines.tensorrt.fit import BuildMachine
from fuselage.errors import BundleError, DeviceError

AXES = ["batch", "sequence"]
FACTS: dict[str, Any] = {
    "target": "tensorrt", "package_version": "11.4.0.106", "compute_capabilities": [], "bytes": 4,
    "profile": {"batch": [1, 4, 8], "sequence": [1, 8, 16]},
    "inputs": [{"name": "ids", "dtype": "int64", "dims": AXES}],
    "outputs": [{"name": "y", "dtype": "float32", "dims": AXES}],
    "built_on": {"gpu": "NVIDIA H200", "compute_capability": "SM90", "driver": "13.0"},
}  # fmt: skip
L4 = {"gpu": "NVIDIA L4", "compute_capability": "SM89", "driver": "12.9"}


@pytest.fixture
def several(folder: Path, tmp_path: Path) -> Path:
    """The bundle with plans of ``tensorrt`` for an H200 and for an L4, and one of RTX."""
    manifest = Bundle.open(folder).manifest
    rtx = {"target": "tensorrt-rtx", "package_version": "1.6.0.1", "built_on": None}
    engines = {
        "tensorrt": FACTS,
        "tensorrt@SM89": {**FACTS, "built_on": L4},
        "tensorrt-rtx": {**FACTS, **rtx, "compute_capabilities": ["SM80", "SM86"]},
    }
    entries = dict(manifest.targets)
    with BundleWriter(tmp_path / "several") as writer:
        for name in manifest.files:
            shutil.copyfile(folder / name, writer.path(name))
        for name, facts in engines.items():
            writer.add(f"{name}/engine.json", json.dumps(facts))
            writer.add(f"{name}/engine.plan", b"plan")
            entries[name] = replace(entries["ort-cpu"], folder=name, precision="fp16")
        writer.commit(replace(manifest, targets=entries))
    return tmp_path / "several"


def machine(
    monkeypatch: pytest.MonkeyPatch, here: BuildMachine | None, **versions: str | None
) -> None:
    """A machine with a GPU or none, and packages or none."""
    from fuselage.engines.tensorrt import backend, flavour

    monkeypatch.setattr(Cuda, "open", lambda: None)
    monkeypatch.setattr(Cuda, "blocker", lambda: None if here else "no NVIDIA driver")
    monkeypatch.setattr(backend, "this_machine", lambda _: here)

    def installed(self: Any) -> str | None:
        return versions.get(self.package)

    monkeypatch.setattr(flavour.Flavour, "installed", installed)


class Loaded(Engine):
    """What a stub of a backend opens."""

    inputs = ()
    outputs = ()

    def __init__(self, folder: Path) -> None:
        self.target = json.loads((folder / "engine.json").read_text())["target"]
        self.folder = folder.name

    def run(self, feeds: Any) -> Any:
        raise AssertionError(feeds)

    def close(self) -> None:
        pass


def plans_open(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every plan opens whose machine is this one; the others are refused as TensorRT would."""
    from fuselage.engines.tensorrt.backend import TensorRtBackend

    tried = []

    def load(self: TensorRtBackend, folder: Path, _: LoadOptions) -> Engine:
        tried.append(folder.name)
        differs = self.mismatches(folder)
        if any(item.field == "compute capability" for item in differs):
            raise DeviceError(f"the plan cannot run: {differs[0]}")
        return Loaded(folder)

    monkeypatch.setattr(TensorRtBackend, "load", load)
    return tried


def test_every_field_that_differs_is_named_for_each_engine(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = BuildMachine(gpu="NVIDIA L4", compute_capability="SM89", driver="12.9")
    machine(monkeypatch, here, tensorrt="10.16.1.11")
    bundle = Bundle.open(several)
    assert bundle.mismatches("tensorrt") == (
        Mismatch("version", "tensorrt 11.4.0.106", "10.16.1.11"),
        Mismatch("compute capability", "SM90", "SM89"),
        Mismatch("GPU", "NVIDIA H200", "NVIDIA L4"),
        Mismatch("driver", "one for CUDA 13.0 or newer", "CUDA 12.9"),
    )
    assert [str(item) for item in bundle.mismatches("tensorrt@SM89")] == [
        "version: expected tensorrt 11.4.0.106, got 10.16.1.11"
    ]
    assert [str(item) for item in bundle.mismatches("tensorrt-rtx")] == [
        "package: expected tensorrt-rtx 1.6.0.1, got none",
        "compute capability: expected SM80, SM86, got SM89",
    ]
    assert bundle.mismatches("ort-cpu") == ()


def test_without_a_gpu_the_gpu_is_what_differs(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, None, tensorrt="11.4.0.106", tensorrt_rtx="1.6.0.1")
    bundle = Bundle.open(several)
    assert [str(item) for name in bundle.targets for item in bundle.mismatches(name)] == [
        "GPU: expected NVIDIA H200 (SM90), got none that answers",
        "GPU: expected NVIDIA L4 (SM89), got none that answers",
        "GPU: expected one of SM80, SM86, got none that answers",
    ]


@pytest.mark.parametrize("asked", [None, "tensorrt"])
@pytest.mark.parametrize(
    ("gpu", "capability", "name"),
    [("NVIDIA L4", "SM89", "tensorrt@SM89"), ("NVIDIA H200", "SM90", "tensorrt")],
)
def test_of_several_engines_of_a_target_the_one_for_this_gpu_runs(
    several: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    gpu: str,
    capability: str,
    name: str,
) -> None:
    here = BuildMachine(gpu=gpu, compute_capability=capability, driver="13.0")
    machine(monkeypatch, here, tensorrt="11.4.0.106")
    tried = plans_open(monkeypatch)
    bundle = Bundle.open(several)
    assert bundle.targets == ("tensorrt", "tensorrt@SM89", "tensorrt-rtx", "ort-cpu")
    with bundle.engine(asked) as engine:
        assert (engine.target, engine.name) == ("tensorrt", name)
        assert engine.notes == ()
        assert engine.passed_over == ()
    assert tried == [name]


def test_the_fallback_is_taken_in_the_order_allowed_and_said(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = BuildMachine(gpu="NVIDIA A100", compute_capability="SM80", driver="13.0")
    machine(monkeypatch, here, tensorrt="11.4.0.106")
    tried = plans_open(monkeypatch)
    expected = r"ort-cpu runs instead of tensorrt: .*SM90, got SM80"
    with pytest.warns(FallbackWarning, match=expected):
        engine = fuselage.load(
            several, target="tensorrt", fallback=("tensorrt-rtx", "ort-cuda", "ort-cpu")
        )
    engine.close()
    notes = engine.notes
    assert engine.name == engine.target == "ort-cpu"
    assert [item.target for item in engine.passed_over] == [
        "tensorrt", "tensorrt@SM89", "tensorrt-rtx", "ort-cuda",
    ]  # fmt: skip
    assert list(dict.fromkeys(tried)) == ["tensorrt", "tensorrt@SM89"]
    assert "compute capability: expected SM90, got SM80" in notes[0]
    assert "package: expected tensorrt-rtx 1.6.0.1, got none" in notes[2]
    assert "this bundle has no such engine; fuselage rebuild" in notes[3]


def test_nothing_is_warned_of_when_the_first_choice_runs(folder: Path) -> None:
    with fuselage.load(folder, target="ort-cpu", fallback="tensorrt") as engine:
        assert (engine.name, engine.passed_over, engine.notes) == ("ort-cpu", (), ())
    with fuselage.load(folder, fallback=("ort-cpu", "tensorrt")) as engine:
        assert engine.name == "ort-cpu"


def test_what_is_not_allowed_does_not_run(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None, tensorrt="11.4.0.106")
    with pytest.raises(
        DeviceError,
        match=r"tensorrt does not run here: no NVIDIA driver \(GPU: expected NVIDIA H200 \(SM90\), "
        r"got none that answers\).*tensorrt-rtx does not run.*that do: ort-cpu$",
    ):
        fuselage.load(several, target="tensorrt", fallback=("tensorrt-rtx",))


def test_a_misspelt_fallback_is_refused_although_the_first_choice_runs(folder: Path) -> None:
    with pytest.raises(BundleError, match="target 'ort_cpu': expected one of ort-cpu, ort-cuda"):
        fuselage.load(folder, target="ort-cpu", fallback=("ort_cpu",))


def test_a_damaged_engine_is_no_reason_to_fall_back(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = BuildMachine(gpu="NVIDIA H200", compute_capability="SM90", driver="13.0")
    machine(monkeypatch, here, tensorrt="11.4.0.106")
    plans_open(monkeypatch)
    (several / "tensorrt/engine.plan").write_bytes(b"plaM")
    with pytest.raises(BundleError, match=r"engine\.plan: sha256"):
        fuselage.load(several, target="tensorrt", fallback=("ort-cpu",))


def test_a_blocked_plan_is_not_read(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None)
    read: list[str] = []
    real = module.check_hash

    def check(path: Path, entry: Any) -> None:
        read.append(path.name)
        real(path, entry)

    monkeypatch.setattr(module, "check_hash", check)
    with Bundle.open(several).engine() as engine:
        assert engine.target == "ort-cpu"
    assert "engine.plan" not in read


def test_names_of_variants() -> None:
    assert variant("tensorrt", "SM90") == "tensorrt@SM90"
    assert variant("tensorrt@SM90", "SM89") == "tensorrt@SM89"


def test_the_command_says_what_runs(
    several: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fuselage.compiler.cli import run

    machine(monkeypatch, None)
    engine = Loaded(several / "tensorrt")
    seen: dict[str, Any] = {}

    def pipeline(path: Path, **options: Any) -> Any:
        seen.update(options)
        inner = Bundle.open(path).engine(options["target"], fallback=options["fallback"])
        engine.notes, engine.passed_over = inner.notes, inner.passed_over
        engine.name = inner.name
        inner.close()
        return Runtime()

    class Runtime(SimpleNamespace):
        task = "embedding"

        def __enter__(self) -> Any:
            self.engine = engine
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __call__(self, texts: list[str]) -> Any:
            return [[0.5] for _ in texts]

    monkeypatch.setattr(fuselage, "pipeline", pipeline)
    arguments = ["run", str(several), "--text", "x", "--target", "tensorrt"]
    assert run([*arguments, "--fallback", "tensorrt-rtx", "--fallback", "ort-cpu"]) == 0
    assert seen["fallback"] == ["tensorrt-rtx", "ort-cpu"]
    said = " ".join(capsys.readouterr().err.split())
    assert "note: tensorrt does not run here" in said
    assert "got none that answers" in said
    assert "note: ort-cpu runs instead" in said


def test_a_manifest_keeps_the_names_of_variants(several: Path) -> None:
    text = (several / "manifest.json").read_text()
    assert Manifest.from_json(text).targets["tensorrt@SM89"].folder == "tensorrt@SM89"
