"""Every name we use of TensorRT and CUDA exists in every version we support, or is asked for first.

api.json holds, for the bindings of three versions, those names that we use; a new use fails here
until it has been looked up in all three.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import ModuleType

import pytest

import fuselage.engines.tensorrt as package

SOURCES = sorted(Path(package.__path__[0]).glob("*.py"))
API: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("api.json").read_text(encoding="utf-8")
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
    "parser_error": "ParserError",
    "profile": "IOptimizationProfile",
    "query": "ITensor",
    "runtime": "Runtime",
    "tensor": "ITensor",
}
"""What a variable of this name holds, everywhere in the package."""

GUARDS = {
    "CausalMaskKind": "CausalMaskKind",
    "ComputeCapability": "ComputeCapability",
    "EngineInvalidityDiagnostics": "EngineInvalidityDiagnostics",
    "EngineValidity": "EngineValidity",
    "causal_kind": "CausalMaskKind",
    "get_engine_validity": "get_engine_validity",
    "key_value_lengths": "CausalMaskKind",
    "num_compute_capabilities": "ComputeCapability",
    "set_compute_capability": "ComputeCapability",
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
    api = next(api for version, api in API.items() if version.startswith("tensorrt_rtx"))
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


def test_the_fake_has_no_name_that_tensorrt_lacks(fakes: ModuleType) -> None:
    stands_for = {"Runtime": "Runtime", "RtxRuntime": "Runtime", "Engine": "ICudaEngine"}
    stands_for |= {"Context": "IExecutionContext"}
    own = {"trt", "cuda", "model", "fails"}
    for fake, real in stands_for.items():
        known = {name for api in API.values() for name in api.get(real, [])}
        names = {name for name in vars(getattr(fakes, fake)) if not name.startswith("_")}
        assert names - own <= known, fake


def test_cuda_has_every_name_that_we_and_the_fake_use(fakes: ModuleType) -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    source = ast.parse(next(path for path in SOURCES if path.name == "cuda.py").read_text())
    used = {chain for node in ast.walk(source) if (chain := dotted(node)).startswith("self._api.")}
    names = {chain.split(".")[2] for chain in used}
    names |= {name for name in vars(fakes.FakeCuda) if name.startswith("cuda")}
    assert len(names) > 15
    assert [name for name in sorted(names) if not hasattr(cuda, name)] == []
    enums = {
        "cudaMemcpyKind": fakes.CopyKind,
        "cudaDeviceAttr": fakes.DeviceAttribute,
        "cudaError_t": fakes.Status,
    }
    for name, fake in enums.items():
        real = getattr(cuda, name)
        assert {member.name: int(getattr(real, member.name)) for member in fake} == {
            member.name: int(member) for member in fake
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
        owner, _, name = dotted(node).rpartition(".")
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
