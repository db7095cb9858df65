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
from fuselage.engines.base import BuildConfig
from fuselage.engines.tensorrt import cuda as cuda_module
from fuselage.engines.tensorrt.backend import TensorRtBackend
from fuselage.graph.tensors import ShapeProfile

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

RETURNS = {
    ("ICudaEngine", "get_tensor_dtype"): "an enum",
    ("ILayer", "get_input"): "ITensor",
    ("ILayer", "get_output"): "ITensor",
    ("INetworkDefinition", "add_cast"): "ILayer",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("OnnxParserRefitter", "get_error"): "ParserError",
}
"""What a call gives whose answer is used on the spot."""

STRINGS = {
    ("statistics.py", "getattr(p, item.name)"),
    ("flavour.py", "trt.ComputeCapability.__members__"),
    ("backend.py", "trt.ComputeCapability.__members__"),
    ("flavour.py", "trt.NetworkDefinitionCreationFlag.__members__"),
    ("plan.py", "trt.EngineInvalidityDiagnostics.__members__"),
}
"""File and code of the only names that are looked up by strings: of our own, or asked for first."""

GUARDS = {
    "CausalMaskKind": "CausalMaskKind",
    "ComputeCapability": "ComputeCapability",
    "EngineInvalidityDiagnostics": "EngineInvalidityDiagnostics",
    "EngineValidity": "EngineValidity",
    "IRuntimeCache": "create_runtime_cache",
    "REQUIRE_USER_ALLOCATION": "REQUIRE_USER_ALLOCATION",
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


@pytest.mark.parametrize(
    ("code", "use"),
    [
        ("network.get_input(0).invented", ("ITensor", "invented")),
        ("network.add_cast(x, y).get_output(0).invented", ("ITensor", "invented")),
        ("trt.Runtime(logger).invented()", ("Runtime", "invented")),
        ("network.get_layer(0).name", ("the answer of INetworkDefinition.get_layer", "name")),
        ("builder_config.invented = 1", ("IBuilderConfig", "invented")),
        ("self._plan.engine.invented", ("ICudaEngine", "invented")),
        ("plan.trt.BuilderFlag.INVENTED", ("BuilderFlag", "INVENTED")),
    ],
)
def test_the_search_sees_through(tmp_path: Path, code: str, use: tuple[str, str]) -> None:
    (tmp_path / "code.py").write_text(code)
    assert use in uses(tmp_path / "code.py")


def test_no_name_is_put_together_at_run_time() -> None:
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "__members__":
                found.add((path.name, ast.unparse(node)))
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            literal = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if node.func.id in ("getattr", "setattr", "delattr", "eval", "exec"):
                found.add((path.name, ast.unparse(node)))
            if node.func.id == "hasattr" and not literal:
                found.add((path.name, ast.unparse(node)))
    assert found == STRINGS


def test_arguments_have_no_names() -> None:
    """Versions differ in the names of arguments, and nothing here holds those."""
    named = [
        f"{path.name}: {ast.unparse(node)}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and node.keywords and isinstance(node.func, ast.Attribute)
        if not node.func.attr.startswith("__")
        if class_of(node.func.value) is not None or dotted(node.func).startswith("self._api.")
    ]
    assert named == []


def test_the_libraries_are_met_in_one_place_each() -> None:
    cuda, trt = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")]
            names += [getattr(node, "module", None) or "", getattr(node, "value", None) or ""]
            texts = [name for name in names if isinstance(name, str)]
            if any(text == "cuda.bindings.runtime" for text in texts) or (
                isinstance(node, ast.Attribute) and node.attr == "_api"
            ):
                cuda.add(path.name)
            if any(text in ("tensorrt", "tensorrt_rtx") for text in texts):
                trt.add(path.name)
    assert cuda == {"cuda.py"}
    assert trt <= {"flavour.py"}


def test_statuses_that_are_told_apart_exist() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime")
    real = {status.name for status in cuda.cudaError_t}
    assert set(cuda_module._LOST) | set(cuda_module._ADVICE) <= real


def test_what_a_real_build_touches_is_listed(
    traced: set[tuple[str, str]], graphs: ModuleType, tmp_path: Path
) -> None:
    config = BuildConfig(profile=ShapeProfile.parse("batch=1:2:4,sequence=1:16:32"))
    TensorRtBackend.of("tensorrt-rtx").build(graphs.encoder(), config, tmp_path)
    assert ("INetworkDefinition", "num_inputs") in traced
    assert unlisted(traced) == set()
    assert len(traced) > 30


def unlisted(traced: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What was touched and is not in api.json; TensorRT calls the log, not we."""
    traced = traced - {("ILogger", "log")}
    api = next(api for version, api in API.items() if version.startswith("tensorrt_rtx"))
    return {(owner, name) for owner, name in traced if name not in api.get(owner, [])}


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
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            owner = class_of(node.value)
            if owner not in (None, "an enum"):
                found.add((owner or "", node.attr))
    return found


def class_of(node: ast.expr) -> str | None:
    """The class of TensorRT that an expression gives, "" for the module, None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = class_of(node.func.value)
        if owner is None:
            return None
        made = node.func.attr if owner == "" else f"the answer of {owner}.{node.func.attr}"
        return RETURNS.get((owner, node.func.attr), made)
    chain = re.sub(r"^(?:(?:self|_?plan)\.)*_?", "", dotted(node) or getattr(node, "id", ""))
    if chain == "trt":
        return ""
    return chain.removeprefix("trt.") if chain.startswith("trt.") else CLASS_OF.get(chain)


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
