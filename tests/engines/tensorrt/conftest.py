from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fuselage.engines.tensorrt.flavour import FLAVOURS


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(name)
    folder = [str(path)] if path.is_dir() else None
    path = path / "__init__.py" if folder else path.with_suffix(".py")
    spec = importlib.util.spec_from_file_location(
        f"tensorrt_tests_{name}", path, submodule_search_locations=folder
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def graphs() -> ModuleType:
    """tests/engines/tensorrt/graphs.py"""
    return _load("graphs")


@pytest.fixture(scope="session")
def fakes() -> ModuleType:
    """tests/engines/tensorrt/fake/"""
    return _load("fake")


@pytest.fixture(scope="session")
def rigs() -> ModuleType:
    """tests/engines/tensorrt/rig.py"""
    return _load("rig")


@pytest.fixture(params=["tensorrt-10.16.1.11", "tensorrt-11.4.0.106", "tensorrt_rtx-1.7.1.116"])
def rig(rigs: ModuleType, fakes: ModuleType, request: pytest.FixtureRequest) -> Any:
    """A Rig of each version."""
    return rigs.Rig(fakes, request.param)


@pytest.fixture
def rtx(rigs: ModuleType, fakes: ModuleType) -> Any:
    """A Rig of TensorRT-RTX."""
    return rigs.Rig(fakes, "tensorrt_rtx-1.7.1.116")


@pytest.fixture(autouse=True)
def _fakes_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake put into sys.modules counts as an installed distribution of its version."""
    real = metadata.version
    packages = {flavour.distribution: flavour.package for flavour in FLAVOURS.values()}

    def version(name: str) -> str:
        module = sys.modules.get(packages.get(name, ""))
        return real(name) if module is None else str(module.__version__)

    monkeypatch.setattr(metadata, "version", version)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """(class, member) of each name that fuselage looks up or sets in tensorrt_rtx from here on.

    The class "" is the module itself; members of enums are not seen.
    """
    trt = pytest.importorskip("tensorrt_rtx")
    root, tests = (str(path) for path in (Path(__file__).parents[3], Path(__file__).parents[2]))
    seen: set[tuple[str, str]] = set()

    def note(owner: str, name: str) -> None:
        caller = sys._getframe(2).f_code.co_filename
        ours = caller.startswith(root) and not caller.startswith(tests)
        if ours and not name.startswith("__"):
            seen.add((owner, name))

    class Module(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            note("", name)
            return ModuleType.__getattribute__(self, name)

    def watch(kind: type) -> None:
        owner = "ILayer" if issubclass(kind, trt.ILayer) else kind.__name__

        def get(self: Any, name: str) -> Any:
            note(owner, name)
            return object.__getattribute__(self, name)

        def put(self: Any, name: str, value: Any) -> None:
            note(owner, name)
            object.__setattr__(self, name, value)

        monkeypatch.setattr(kind, "__getattribute__", get)
        monkeypatch.setattr(kind, "__setattr__", put)

    for kind in vars(trt).values():
        enum = hasattr(kind, "__members__")
        if isinstance(kind, type) and kind.__module__.startswith("tensorrt") and not enum:
            watch(kind)
    monkeypatch.setattr(trt, "__class__", Module)
    return seen
