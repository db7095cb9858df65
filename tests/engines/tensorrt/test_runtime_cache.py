"""Kernels that TensorRT-RTX compiles at run time: compiled once a GPU, driver, version and plan."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fuselage.engines.tensorrt.runtime_cache import KERNELS, RuntimeCache

RTX = "tensorrt_rtx-1.7.1.116"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / KERNELS


def compiled(rig: Any, *shapes: tuple[int, int]) -> int:
    """Kernels that one process compiles to answer these shapes."""
    before = rig.trt.compiled
    with rig.open() as engine:
        for shape in shapes:
            rig.check(engine, *shape)
    assert rig.cuda.leaks() == {}
    return int(rig.trt.compiled - before)


def test_the_next_process_compiles_nothing(rigs: ModuleType, fakes: ModuleType, kept: Path) -> None:
    assert compiled(rigs.Rig(fakes, RTX), (1, 8), (4, 8)) == 2
    (file,) = kept.iterdir()
    assert file.name.endswith("-NVIDIA-L4-SM89-13.0-1.7.1.116")
    written = file.stat().st_mtime_ns
    assert compiled(rigs.Rig(fakes, RTX), (1, 8), (4, 8)) == 0
    assert compiled(rigs.Rig(fakes, RTX), (2, 8), (4, 8)) == 1
    assert compiled(rigs.Rig(fakes, RTX), (2, 8), (1, 8), (4, 8)) == 0
    assert file.stat().st_mtime_ns >= written
    assert list(kept.iterdir()) == [file]


def test_an_unchanged_cache_is_not_written_again(
    rigs: ModuleType, fakes: ModuleType, kept: Path
) -> None:
    compiled(rigs.Rig(fakes, RTX), (1, 8))
    (file,) = kept.iterdir()
    number = file.stat().st_ino
    compiled(rigs.Rig(fakes, RTX), (1, 8))
    assert file.stat().st_ino == number, "the file was replaced"


def test_another_gpu_driver_or_version_has_a_file_of_its_own(
    rigs: ModuleType, fakes: ModuleType, kept: Path
) -> None:
    for change in ({}, {"gpu_name": "NVIDIA H200"}, {"driver": 13010}, {"capability": (12, 0)}):
        rig = rigs.Rig(fakes, RTX)
        for name, value in change.items():
            setattr(rig.cuda, name, value)
        assert compiled(rig, (1, 8)) == 1, change
    assert len(list(kept.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"damaged", b'{"version": "1.6", "entries": []}'])
def test_a_file_that_is_refused_is_said_and_replaced(
    rigs: ModuleType, fakes: ModuleType, kept: Path, content: bytes
) -> None:
    compiled(rigs.Rig(fakes, RTX), (1, 8))
    (file,) = kept.iterdir()
    file.write_bytes(content)
    rig = rigs.Rig(fakes, RTX)
    with rig.open() as engine:
        rig.check(engine, 1, 8)
        assert any("kernels kept from before are not for this GPU" in n for n in engine.notes)
    assert rig.trt.compiled == 1
    assert compiled(rigs.Rig(fakes, RTX), (1, 8)) == 0


@pytest.mark.parametrize("fault", ["serialize", "runtime-cache"])
def test_without_a_cache_everything_answers(
    rigs: ModuleType, fakes: ModuleType, kept: Path, fault: str
) -> None:
    rig = rigs.Rig(fakes, RTX)
    rig.trt.faults = {fault}
    compiled(rig, (1, 8))
    assert not kept.exists()


def test_a_folder_that_cannot_be_written_is_no_error(
    rigs: ModuleType, fakes: ModuleType, kept: Path
) -> None:
    kept.parent.write_text("a file")
    assert compiled(rigs.Rig(fakes, RTX), (1, 8)) == 1


@pytest.mark.parametrize("version", ["tensorrt-10.16.1.11", "tensorrt-11.4.0.106"])
def test_flavours_that_compile_in_the_build_keep_nothing(
    rigs: ModuleType, fakes: ModuleType, kept: Path, version: str
) -> None:
    assert compiled(rigs.Rig(fakes, version), (1, 8)) == 0
    assert not kept.exists()


def test_the_files_used_last_stay(rigs: ModuleType, fakes: ModuleType, kept: Path) -> None:
    kept.mkdir(parents=True)
    for age in range(40):
        (kept / f"{age:02}").touch()
        os.utime(kept / f"{age:02}", (1000 - age, 1000 - age))
    compiled(rigs.Rig(fakes, RTX), (1, 8))
    left = {path.name for path in kept.iterdir()}
    assert len(left) == 32
    assert {f"{age:02}" for age in range(31)} < left


def test_closing_twice_keeps_once(rigs: ModuleType, fakes: ModuleType, kept: Path) -> None:
    rig = rigs.Rig(fakes, RTX)
    engine = rig.open()
    rig.check(engine, 1, 8)
    engine.close()
    (file,) = kept.iterdir()
    number = file.stat().st_ino
    engine.close()
    assert file.stat().st_ino == number


def test_the_installed_package_has_what_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert hasattr(trt.ICudaEngine, "create_runtime_config")
    assert hasattr(trt.IRuntimeConfig, "create_runtime_cache")
    monkeypatch.setenv("FUSELAGE_CACHE", str(tmp_path))
    assert RuntimeCache.of(trt, object(), b"", None) is None  # type: ignore[arg-type]
