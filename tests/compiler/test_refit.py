"""The same architecture with other weights: a complete new bundle, or the old one as it was."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fuselage
from fuselage.compiler.cli import run
from fuselage.compiler.rebuilding.rebuild import Wish, rebuild
from fuselage.compiler.rebuilding.refit import RefitWish, refit
from fuselage.engines.bundle import Bundle
from fuselage.errors import BuildError, BundleError, SourceError, VerificationError


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def models(checkpoint: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A model and one with other weights."""
    old = checkpoint()
    new = Path(shutil.copytree(old, tmp_path / "tuned"))
    change(new / "model.safetensors", lambda _, array: array * np.float32(1.3) + 0.01)
    return old, new


def change(file: Path, how: Callable[[str, np.ndarray], np.ndarray | None]) -> Path:
    found = {name: how(name, array) for name, array in load_file(file).items()}
    kept = {name: np.ascontiguousarray(a) for name, a in found.items() if a is not None}
    save_file(kept, file, metadata={"format": "pt"})
    return file


@pytest.fixture
def bundle(models: tuple[Path, Path], tmp_path: Path) -> Path:
    """Of the old model."""
    return fuselage.build(str(models[0]), out=tmp_path / "bundle", targets=["ort-cpu"]).root


def wish(bundle: Path, weights: Path, **options: Any) -> RefitWish:
    return RefitWish(bundle=bundle, weights=weights, out=bundle.with_name("out"), **options)


def test_it_is_the_bundle_that_a_build_of_the_new_model_gives(
    models: tuple[Path, Path], bundle: Path, tmp_path: Path
) -> None:
    before = contents(bundle)
    done = refit(wish(bundle, models[1]))
    assert contents(bundle) == before
    assert (done.how, done.left_out) == ({"ort-cpu": "built"}, ())
    built = fuselage.build(str(models[1]), out=tmp_path / "built", targets=["ort-cpu"])
    timed = {"manifest.json", "report.json", "ort-cpu/engine.json"}
    same = {name: data for name, data in contents(done.bundle.root).items() if name not in timed}
    assert same == {n: data for n, data in contents(built.root).items() if n not in timed}
    changed = {name for name, data in same.items() if before[name] != data}
    assert changed >= {"graph/model.weights", "ort-cpu/model.weights"}
    assert changed.isdisjoint({"tokenizer.json", "task.json"})
    manifest = done.bundle.manifest
    assert manifest.verification["passed"]
    assert manifest.model.digest == built.manifest.model.digest
    old = Bundle.open(bundle).manifest
    assert manifest.recipe["refitted"] == {"from": old.model.digest, "plans": {}}


def test_a_file_takes_config_and_tokenizer_of_the_old_model(
    models: tuple[Path, Path], bundle: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copyfile(models[1] / "model.safetensors", tmp_path / "epoch3.safetensors"))
    by_file = refit(wish(bundle, file, model=str(models[0]))).bundle
    assert by_file.manifest.model.id == "epoch3"
    by_folder = refit(wish(bundle, models[1])).bundle
    assert by_file.manifest.model.digest == by_folder.manifest.model.digest


def test_a_file_in_half_precision_is_the_same_numbers(
    models: tuple[Path, Path], bundle: Path
) -> None:
    file = models[1] / "model.safetensors"
    change(file, lambda _, array: array.astype(np.float16).astype(array.dtype))
    first = refit(wish(bundle, file, model=str(models[0]))).bundle.path("graph/model.weights")
    exact = first.read_bytes()
    change(file, lambda _, array: array.astype(np.float16) if array.dtype.kind == "f" else array)
    second = refit(wish(bundle, file, model=str(models[0]))).bundle.path("graph/model.weights")
    assert second.read_bytes() == exact


NAME = "encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda name, array: None if name == NAME else array,
            rf"tuned/model.safetensors: .*: {NAME} is missing; save them",
        ),
        (
            lambda name, array: array.T if name == NAME else array,
            rf"{NAME}: expected F32\[24, 40\], got F32\[40, 24\]",
        ),
        (
            lambda name, array: array.astype(np.int8) if name == NAME else array,
            rf"{NAME}: expected F32\[24, 40\], got I8\[24, 40\]",
        ),
    ],
    ids=["missing", "shape", "dtype"],
)
def test_a_file_of_other_tensors_is_refused(
    models: tuple[Path, Path],
    bundle: Path,
    how: Callable[[str, np.ndarray], np.ndarray | None],
    message: str,
) -> None:
    file = change(models[1] / "model.safetensors", how)
    before = contents(bundle)
    with pytest.raises(BuildError, match=message):
        refit(wish(bundle, file, model=str(models[0])))
    assert contents(bundle) == before
    assert not bundle.with_name("out").exists()


def test_another_name_is_named(models: tuple[Path, Path], bundle: Path) -> None:
    file = models[1] / "model.safetensors"
    save_file({**load_file(file), "lora.A": np.zeros(3, np.float32)}, file, {"format": "pt"})
    with pytest.raises(BuildError, match=r"expected the \d+ tensors .*: lora.A is not of it"):
        refit(wish(bundle, file, model=str(models[0])))


def test_what_is_no_weights_is_named(models: tuple[Path, Path], bundle: Path) -> None:
    with pytest.raises(SourceError, match="expected a safetensors file or the folder of a model"):
        refit(wish(bundle, bundle / "none.safetensors"))
    with pytest.raises(SourceError, match="expected a safetensors file"):
        refit(wish(bundle, bundle / "report.json", model=str(models[0])))
    file = models[1] / "model.safetensors"
    with pytest.raises(
        SourceError, match=r"the config and tokenizer of the model 'model'.*--model"
    ):
        refit(wish(bundle, file))
    with pytest.raises(BuildError, match=r"--model .*tuned: expected the model that the bundle"):
        refit(wish(bundle, file, model=str(models[1])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 2}, r"another architecture than .*: expected node"),
        ({"intermediate_size": 48}, r"another architecture than .*expected weight .*40"),
        ({"max_position_embeddings": 32}, "expected max_tokens 64 as in .*, got 32"),
    ],
)
def test_another_architecture_is_refused(
    bundle: Path,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    changes: dict[str, int],
    message: str,
) -> None:
    shutil.rmtree(tmp_path / "model")
    other = checkpoint(**changes)
    with pytest.raises(BuildError, match=rf"{message}.*build a bundle of its own"):
        refit(wish(bundle, other))
    assert not bundle.with_name("out").exists()


def test_another_tokenizer_is_refused(models: tuple[Path, Path], bundle: Path) -> None:
    path = models[1] / "tokenizer.json"
    path.write_text(path.read_text().replace('"[UNK]"', '"[WHAT]"'))
    settings = models[1] / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace('"[UNK]"', '"[WHAT]"'))
    with pytest.raises(BuildError, match=r"its tokenizer is not that of .*other tokens"):
        refit(wish(bundle, models[1]))


def test_in_place_it_is_the_old_bundle_or_the_new_one(
    models: tuple[Path, Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle)
    in_place = RefitWish(bundle=bundle, weights=models[1], use_cache=False)
    with monkeypatch.context() as patch:
        patch.setattr("fuselage.compiler.checks.proof.Proof.examine", wrong_answer)
        with pytest.raises(VerificationError, match=r"nothing was written.*ort-cpu: it is off"):
            refit(in_place)
    assert contents(bundle) == before
    refit(in_place)
    assert Bundle.open(bundle, full=True).manifest.recipe["refitted"]["plans"] == {}
    assert contents(bundle) != before


def wrong_answer(_self: Any, target: str, precision: str, *_: Any) -> Any:
    from fuselage.compiler.checks.proof import Verdict

    blank = dict.fromkeys(field for field in Verdict.__dataclass_fields__)
    return Verdict(
        **{
            **blank, "target": target, "precision": precision, "passed": False,
            "reason": "it is off", "cosine_min": 0.0, "max_abs": 1.0,
        }
    )  # fmt: skip


def test_a_bundle_that_changed_meanwhile_stays(
    models: tuple[Path, Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fuselage.compiler.rebuilding import refit as module

    first, calls = module._Replacing.judge, []

    def once(self: Any, report: Any) -> None:
        calls.append(report)
        if len(calls) == 1:  # another process is quicker
            refit(RefitWish(bundle=bundle, weights=models[1]))
        first(self, report)

    monkeypatch.setattr(module._Replacing, "judge", once)
    with pytest.raises(BundleError, match="changed by another process meanwhile"):
        refit(RefitWish(bundle=bundle, weights=models[1]))


def test_quantised_targets_must_be_calibrated_anew(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "int8"
    fuselage.build(str(models[0]), out=out, targets=["ort-cpu"], precision="int8-weight-only")
    before = contents(out)
    assert run(["refit", str(out), "--weights", str(models[1])]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "ort-cpu is int8-weight-only: its scales" in said
    assert "calibrate anew with: fuselage build NEW_MODEL --precision int8-weight-only" in said
    assert contents(out) == before


class TestPlans:
    """TensorRT on a fake GPU."""

    @pytest.fixture
    def trt(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        fakes = load_fakes()
        cuda = fakes.FakeCuda()
        trt = fakes.FakeTensorRt("tensorrt", cuda)
        trt.__spec__ = ModuleSpec("tensorrt", None)  # torch looks for it
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
        real = metadata.version
        monkeypatch.setattr(
            metadata, "version", lambda name: trt.__version__ if name == "tensorrt" else real(name)
        )
        return trt

    def build(self, model: Path, out: Path, **options: Any) -> Path:
        return fuselage.build(
            str(model), out=out, targets=["tensorrt"], precision="fp32", **options
        ).root

    @pytest.mark.usefixtures("trt")
    def test_a_fixed_plan_must_be_built_again(
        self, models: tuple[Path, Path], tmp_path: Path
    ) -> None:
        bundle = self.build(models[0], tmp_path / "bundle")
        with pytest.raises(BuildError, match="fixed and must be built again: add --rebuild"):
            refit(wish(bundle, models[1]))
        assert refit(wish(bundle, models[1], rebuild=True)).how == {"tensorrt": "built"}

    @pytest.mark.parametrize("stripped", [False, True])
    def test_one_that_takes_weights_is_not_compiled(
        self,
        trt: Any,
        models: tuple[Path, Path],
        tmp_path: Path,
        stripped: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bundle = self.build(models[0], tmp_path / "bundle", refittable=True, strip_plan=stripped)
        built = self.build(models[1], tmp_path / "built")
        with monkeypatch.context() as patch:
            patch.delattr(trt, "Builder")
            if stripped:  # it is copied, which needs no GPU
                patch.setattr("fuselage.engines.tensorrt.backend.Cuda.blocker", lambda: "no GPU")
            done = refit(wish(bundle, models[1], use_cache=False))
        assert done.how == {"tensorrt": "refitted"}
        subject = done.report["verification"]["targets"][0]["subject"]
        assert subject.startswith("its graph" if stripped else "engine")
        assert set(done.bundle.manifest.recipe["refitted"]["plans"]) == {"tensorrt"}
        old, new = outputs(bundle), outputs(done.bundle.root)
        np.testing.assert_allclose(new, outputs(built), atol=1e-5)
        assert np.abs(new - old).max() > 1e-2

    @pytest.mark.usefixtures("trt")
    def test_a_plan_with_its_weights_needs_a_gpu(
        self,
        models: tuple[Path, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bundle = self.build(models[0], tmp_path / "bundle", refittable=True)
        monkeypatch.setattr("fuselage.engines.tensorrt.backend.Cuda.blocker", lambda: "no GPU")
        with pytest.raises(BuildError, match="tensorrt: a plan is refitted on a GPU: no GPU"):
            refit(wish(bundle, models[1]))

    def test_what_fails_half_way_leaves_the_old_bundle(
        self, trt: Any, models: tuple[Path, Path], tmp_path: Path
    ) -> None:
        bundle = self.build(models[0], tmp_path / "bundle", refittable=True)
        before = contents(bundle)
        trt.faults = {"refit"}
        with pytest.raises(fuselage.DeviceError, match="cannot refit: the reason for refit"):
            refit(RefitWish(bundle=bundle, weights=models[1]))
        assert contents(bundle) == before
        assert sorted(path.name for path in bundle.parent.glob(".*")) == []
        trt.faults = set()
        refit(RefitWish(bundle=bundle, weights=models[1]))

    @pytest.mark.usefixtures("trt")
    def test_a_stripped_bundle_opens_and_says_what_it_lacks(
        self, models: tuple[Path, Path], tmp_path: Path
    ) -> None:
        bundle = self.build(models[0], tmp_path / "bundle", strip_plan=True)
        plain = self.build(models[0], tmp_path / "plain")
        np.testing.assert_allclose(outputs(bundle), outputs(plain), atol=1e-6)
        facts = json.loads((bundle / "tensorrt" / "engine.json").read_text())
        assert facts["weights"]["refit"] == "identical"
        assert all(entry["shared"] for entry in facts["weight_table"])
        assert not (bundle / "tensorrt" / "engine.weights").exists()
        (bundle / "graph" / "model.weights").write_bytes(b"gone")
        with pytest.raises(BundleError, match=r"graph/model.weights"):
            outputs(bundle)

    @pytest.mark.usefixtures("trt")
    def test_stripping_a_quantised_plan_is_refused(
        self, models: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(BuildError, match="--strip-plan: precision 'int8-weight-only' computes"):
            fuselage.build(
                str(models[0]),
                out=tmp_path / "bundle",
                targets=["tensorrt"],
                precision="int8-weight-only",
                strip_plan=True,
            )

    def test_timings_that_are_rejected_are_noted(
        self, trt: Any, models: tuple[Path, Path], tmp_path: Path
    ) -> None:
        self.build(models[0], tmp_path / "one", shapes="batch=1:2:4,sequence=1:8:16")
        trt.faults = {"timing-cache"}
        out = self.build(models[0], tmp_path / "two", shapes="batch=1:2:4,sequence=1:8:24")
        notes = json.loads((out / "report.json").read_text())["notes"]
        assert any("tensorrt: the timings of kernels kept from earlier" in line for line in notes)

    @pytest.mark.parametrize("option", ["strip_plan", "refittable", "weight_streaming"])
    def test_a_rebuilt_plan_holds_its_weights_as_the_old_one(
        self, trt: Any, models: tuple[Path, Path], tmp_path: Path, option: str
    ) -> None:
        bundle = self.build(models[0], tmp_path / "bundle", **{option: True})
        before = json.loads((bundle / "tensorrt" / "engine.json").read_text())
        timed = trt.timed
        done = rebuild(Wish(bundle=bundle, out=tmp_path / "rebuilt"))
        assert trt.timed == timed  # with the timings that the build kept
        assert done.verdicts["tensorrt"].subject == "engine"
        after = json.loads((done.bundle.root / "tensorrt" / "engine.json").read_text())
        assert after["weights"] == before["weights"] != {**before["weights"], **UNASKED}
        np.testing.assert_allclose(outputs(done.bundle.root), outputs(bundle), atol=1e-6)


UNASKED = {"refit": None, "stripped": False, "streamed": False}


def outputs(bundle: Path) -> np.ndarray:
    ids = np.arange(1, 13, dtype=np.int64).reshape(2, 6)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with fuselage.load(bundle, target="tensorrt") as engine:
        fed = {s.name: feeds.get(s.name, np.zeros_like(ids)) for s in engine.inputs}
        return next(iter(engine.run(fed).values()))


def load_fakes() -> ModuleType:
    folder = Path(__file__).parents[1] / "engines" / "tensorrt" / "fake"
    spec = importlib.util.spec_from_file_location(
        "refit_fakes", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is of Unix")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_kill_9_leaves_the_old_bundle_or_the_new_one(
    models: tuple[Path, Path], bundle: Path
) -> None:
    """Processes that are forked with everything imported, killed as they come to write."""
    old = contents(bundle)
    refit(wish(bundle, models[1]))  # the cache is full from here on
    chance, codes = random.Random(3), []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            refit(RefitWish(bundle=bundle, weights=models[1], threads=1))
            os._exit(0)
        time.sleep(chance.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        Bundle.open(bundle, full=True)
        assert contents(bundle).keys() == old.keys()
        if Bundle.open(bundle).manifest.recipe.get("refitted") is None:
            assert contents(bundle) == old
    assert codes.count(-signal.SIGKILL) >= 2
    refit(RefitWish(bundle=bundle, weights=models[1]))
    assert [path.name for path in bundle.parent.glob(".bundle.*")] == []


@pytest.mark.parametrize("option", ["--refittable", "--strip-plan", "--weight-streaming"])
def test_what_no_target_heeds_is_refused(
    models: tuple[Path, Path], tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    arguments = ["build", str(models[0]), "--out", str(out), "--target", "ort-cpu", option]
    assert run(arguments) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option}: it is for tensorrt or tensorrt-rtx, this build is for ort-cpu" in said
    assert not out.exists()
