"""Every name we use of TensorRT and CUDA exists in every version we support, or is asked for first.

api.json holds, for the bindings of three versions of TensorRT, those names that we use, and
cuda_api.json those of ``cuda.bindings.runtime``; a new use fails here until it was looked up there.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fuselage.engines.tensorrt as package

SOURCES = sorted(Path(package.__path__[0]).rglob("*.py"))
API: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("api.json").read_text(encoding="utf-8")
)

CUDA: dict[str, Any] = json.loads(
    Path(__file__).with_name("cuda_api.json").read_text(encoding="utf-8")
)

CLASS_OF = {
    "builder": "Builder",
    "builder_config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "layer": "ILayer",
    "layer.attention": "IAttention",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_refitter": "OnnxParserRefitter",
    "parser_error": "ParserError",
    "profile": "IOptimizationProfile",
    "query": "ITensor",
    "refitter": "Refitter",
    "runtime": "Runtime",
    "runtime_cache": "IRuntimeCache",
    "runtime_config": "IRuntimeConfig",
    "serialization_config": "ISerializationConfig",
    "tensor": "ITensor",
    "timing_cache": "ITimingCache",
}
"""What a variable of this name holds, everywhere in the package."""

GUARDS = {
    "CausalMaskKind": "CausalMaskKind",
    "ComputeCapability": "ComputeCapability",
    "EngineInvalidityDiagnostics": "EngineInvalidityDiagnostics",
    "EngineValidity": "EngineValidity",
    "IRuntimeCache": "create_runtime_cache",
    "causal_kind": "CausalMaskKind",
    "create_runtime_cache": "create_runtime_cache",
    "get_engine_validity": "get_engine_validity",
    "is_stream_capturable": "is_stream_capturable",
    "key_value_lengths": "CausalMaskKind",
    "num_compute_capabilities": "ComputeCapability",
    "set_compute_capability": "ComputeCapability",
    "set_runtime_cache": "create_runtime_cache",
}
"""A name that not every version has -> the hasattr question its file must ask."""


def test_the_names_we_use_exist_in_every_version_or_are_guarded() -> None:
    used = {use for path in SOURCES for use in uses(path)}
    assert len(used) > 50, "the search for uses has stopped finding them"
    unguarded = []
    for path in SOURCES:
        questions = asked(path)
        for owner, name in sorted(uses(path)):
            missing = [version for version, api in API.items() if name not in api.get(owner, [])]
            guard = GUARDS.get(name) or GUARDS.get(owner)
            if missing and guard not in questions:
                unguarded.append(f"{path.name}: {owner}.{name} is not in {missing}")
    assert unguarded == []


def test_every_guard_is_needed() -> None:
    common = set.intersection(
        *({name for names in api.values() for name in names} for api in API.values())
    )
    assert {name for name in GUARDS if name in common} == set()


def test_api_json_holds_nothing_that_we_do_not_use() -> None:
    used = {use for path in SOURCES for use in uses(path)}
    recorded = {
        (owner, name) for api in API.values() for owner, names in api.items() for name in names
    }
    assert recorded - used == set()


def test_api_json_agrees_with_the_installed_package() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    api = dict(next(api for version, api in API.items() if version.startswith("tensorrt_rtx")))
    module_names = api.pop("")
    assert [name for name in module_names if not hasattr(trt, name)] == []
    # An attention layer is typed as ILayer until its class is set.
    owners = {"ILayer": trt.IAttentionInputLayer}
    missing = [
        f"{owner}.{name}"
        for owner, names in api.items()
        for name in names
        if not hasattr(owners.get(owner) or getattr(trt, owner), name)
    ]
    assert missing == []


@pytest.mark.parametrize("version", API)
def test_a_fake_has_the_names_of_its_version_alone(fakes: ModuleType, version: str) -> None:
    trt = fakes.FakeTensorRt(version, fakes.FakeCuda())
    faked = {"Runtime": trt.Runtime}
    faked["ICudaEngine"] = trt.restrict(fakes.Engine, "ICudaEngine")
    faked["IExecutionContext"] = trt.restrict(fakes.Context, "IExecutionContext")
    for real, fake in faked.items():
        names = {name for name in vars(fake) if not name.startswith("_")}
        assert names == set(API[version][real]), real
    module = {name for name in vars(trt) if name[:1].isupper()}
    assert module <= set(API[version][""])
    rtx_only = {"get_engine_validity", "is_stream_capturable"}
    missing = {name for name in rtx_only if not any(hasattr(fake, name) for fake in faked.values())}
    assert missing == (set() if version.startswith("tensorrt_rtx") else rtx_only)


def test_a_name_that_no_version_has_cannot_be_faked(fakes: ModuleType) -> None:
    trt = fakes.FakeTensorRt("tensorrt", fakes.FakeCuda())
    invented = type("Invented", (), {"execute_async_v4": None})
    with pytest.raises(fakes.MisuseError, match=r"IExecutionContext\.\['execute_async_v4'\]"):
        trt.restrict(invented, "IExecutionContext")


def test_the_fake_cuda_has_every_name_that_we_use_and_no_other(fakes: ModuleType) -> None:
    source = ast.parse(next(path for path in SOURCES if path.name == "cuda.py").read_text())
    used = {chain for node in ast.walk(source) if (chain := dotted(node)).startswith("self._api.")}
    names = {chain.split(".")[2] for chain in used}
    assert len(names) > 25, "the search for uses has stopped finding them"
    faked = {name for name in vars(fakes.FakeCuda) if name.startswith("cuda")}
    assert names == faked == set(CUDA["names"])
    for name, fake in enums(fakes).items():
        assert {member.name: int(member) for member in fake} == CUDA["enums"][name]


def test_cuda_api_json_agrees_with_the_installed_bindings() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    assert [name for name in CUDA["names"] if not hasattr(cuda, name)] == []
    for name, members in CUDA["enums"].items():
        real = getattr(cuda, name)
        assert {member: int(getattr(real, member)) for member in members} == members


def enums(fakes: ModuleType) -> dict[str, Any]:
    """Name of a CUDA enum -> what stands in for it."""
    return {
        "cudaError_t": fakes.Status,
        "cudaMemcpyKind": fakes.CopyKind,
        "cudaDeviceAttr": fakes.DeviceAttribute,
        "cudaStreamCaptureMode": fakes.CaptureMode,
    }


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of attributes of a name, else an empty string."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) and names else ""


def uses(path: Path) -> set[tuple[str, str]]:
    """(class, member) for every name of TensorRT in a file; class "" is the module itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        chain = re.sub(r"^(self\.|plan\.)*_?", "", dotted(node))
        owner, _, name = chain.rpartition(".")
        if name.startswith("__"):
            continue
        if owner == "trt":
            found.add(("", name))
        elif owner.startswith("trt."):
            found.add((owner.removeprefix("trt."), name))
        elif owner in CLASS_OF:
            found.add((CLASS_OF[owner], name))
    return found


def asked(path: Path) -> set[str]:
    """Names that a file asks for with hasattr."""
    return {
        node.args[1].value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "hasattr"
        and isinstance(node.args[1], ast.Constant)
    }
