from __future__ import annotations

import enum
import sys
from importlib.abc import MetaPathFinder
from types import SimpleNamespace

import pytest

from fuselage.engines.tensorrt.flavour import (
    FLAVOURS,
    TENSORRT,
    TENSORRT_RTX,
    choose_compute_capabilities,
    network_flags,
    targetable,
)
from fuselage.errors import BuildError, DeviceError, MissingPackageError

PLAIN = SimpleNamespace(__version__="11.4.0.106")
CAPABILITIES = enum.Enum("ComputeCapability", {"NONE": 0, "CURRENT": 1, "SM80": 80, "SM89": 89})
RTX = SimpleNamespace(__version__="1.7.1", ComputeCapability=CAPABILITIES)


def test_targets() -> None:
    assert FLAVOURS == {"tensorrt": TENSORRT, "tensorrt-rtx": TENSORRT_RTX}


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackageError, match=r"pip install \"fuselage\[tensorrt\]\""):
        TENSORRT.module()
    assert "'tensorrt', which is not installed" in (TENSORRT.blocker() or "")


@pytest.mark.parametrize(
    ("version", "fits"),
    [("10.14.1.48", False), ("10.15.0", True), ("11.4.0.106", True), ("9.3.0.post12", False)],
)
def test_the_minimum_version(monkeypatch: pytest.MonkeyPatch, version: str, fits: bool) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    if fits:
        assert TENSORRT.version() == version
        assert TENSORRT.blocker() is None
    else:
        with pytest.raises(DeviceError, match=rf"needs tensorrt 10\.15 or newer, found {version}"):
            TENSORRT.module()


@pytest.mark.parametrize(
    "error",
    [
        OSError("libnvinfer.so.10: cannot open shared object file"),
        ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
    ],
)
def test_a_broken_installation_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Broken(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "tensorrt":
                raise error

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DeviceError, match=r"its libraries do not load \(.*reinstall"):
        TENSORRT.module()


def test_compute_capabilities() -> None:
    assert targetable(PLAIN) == ()
    assert targetable(RTX) == ("SM80", "SM89")
    assert choose_compute_capabilities(TENSORRT, PLAIN, ()) == ()
    assert choose_compute_capabilities(TENSORRT_RTX, RTX, ()) == ("SM80", "SM89")
    assert choose_compute_capabilities(TENSORRT_RTX, RTX, ("SM89", "SM89")) == ("SM89",)
    with pytest.raises(BuildError, match="tensorrt-rtx: compute capability 'SM90' is not one of"):
        choose_compute_capabilities(TENSORRT_RTX, RTX, ("SM90",))
    with pytest.raises(BuildError, match="builds for the GPU of this machine alone"):
        choose_compute_capabilities(TENSORRT, PLAIN, ("SM90",))


def test_networks_are_strongly_typed_where_it_is_a_choice() -> None:
    def trt(**members: int) -> SimpleNamespace:
        return SimpleNamespace(NetworkDefinitionCreationFlag=enum.IntEnum("Flag", members))

    assert network_flags(trt(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)) == 2
    assert network_flags(trt(STRONGLY_TYPED=0)) == 1
    assert network_flags(trt(EXPLICIT_BATCH=0)) == 0
