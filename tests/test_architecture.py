"""Who may import whom, what a runtime may need, and what the wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("graph", "passes", "engines", "calibration", "compiler", "proof", "serving")
OUTSIDE = ("tests", "docs", "benchmarks", "examples", "build", "dist")

# Each layer and the layers below it. passes and engines do not know each other.
BELOW = {
    "errors": set(),
    "graph": {"errors"},
    "passes": {"errors", "graph"},
    "engines": {"errors", "graph"},
    "calibration": {"errors", "graph", "passes", "engines"},
    "compiler": {"errors", "graph", "passes", "engines", "calibration"},
    "proof": {"errors", "graph", "passes", "engines", "calibration", "compiler"},
    "serving": {"errors", "graph", "engines"},
    "cli": {*LAYERS, "errors", "top"},
    "top": {*LAYERS, "errors", "cli"},
}
LARGEST_FILE = 350


def sources() -> list[Path]:
    """Every Python file of the package."""
    files = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    for layer in LAYERS:
        files += (ROOT / layer).rglob("*.py")
    return sorted(files)


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def layer_of(module: tuple[str, ...]) -> str:
    if module[:2] == ("compiler", "cli"):
        return "cli"
    if not module or module[0] in ("__main__", "__init__"):
        return "top"
    return module[0]


def imports(path: Path, *, runtime_only: bool = False) -> Iterator[tuple[tuple[str, ...], int]]:
    """Absolute module paths that a file imports, ours without the package name, and the line."""
    tree = ast.parse(path.read_text("utf-8"), path)
    skipped = set(map(id, typing_only(tree))) if runtime_only else set()
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split(".")), node.lineno
        elif isinstance(node, ast.ImportFrom):
            named = tuple(node.module.split(".")) if node.module else ()
            if not node.level:
                yield named, node.lineno
                continue
            start = package[: len(package) - node.level + 1]
            for alias in node.names:
                found = (*start, *named)
                yield ("fuselage", *found, alias.name), node.lineno


def typing_only(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes under ``if TYPE_CHECKING``."""
    for node in ast.walk(tree):
        is_guard = isinstance(node, ast.If) and isinstance(node.test, ast.Name)
        if is_guard and node.test.id == "TYPE_CHECKING":  # type: ignore[attr-defined]
            for child in node.body:  # type: ignore[attr-defined]
                yield from ast.walk(child)


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def users_of(*packages: str) -> dict[str, list[str]]:
    """Files that import a package, anywhere in them."""
    found: dict[str, list[str]] = {}
    for path in sources():
        for module, line in imports(path):
            if module and module[0] in packages:
                found.setdefault(str(path.relative_to(ROOT)), []).append(where(path, line))
    return found


def test_layers_import_downwards_only() -> None:
    offences = []
    for path in sources():
        ours = layer_of(module_of(path))
        for module, line in imports(path):
            if module[:1] != ("fuselage",) or len(module) < 2:
                continue
            theirs = layer_of(module[1:])
            known = theirs in BELOW
            if known and theirs != ours and theirs not in BELOW[ours]:
                offences.append(f"{where(path, line)}: {ours} imports {theirs}")
    assert offences == []


def test_every_layer_is_known() -> None:
    assert {layer_of(module_of(path)) for path in sources()} == set(BELOW)


def test_modules_do_not_import_one_another_in_circles() -> None:
    """At import time; an import inside a function or for the type checker may point anywhere."""
    edges: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    modules = {module_of(path) for path in sources()}
    for path in sources():
        tree = ast.parse(path.read_text("utf-8"))
        late = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        lines = {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in late
        }
        for module, line in imports(path, runtime_only=True):
            if line not in lines or module[:1] != ("fuselage",):
                continue
            target = module[1:] if module[1:] in modules else module[1:-1]
            if target in modules and target != module_of(path):
                edges.setdefault(module_of(path), set()).add(target)
    assert circle(edges) is None


def circle(edges: dict[tuple[str, ...], set[tuple[str, ...]]]) -> str | None:
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], trail: tuple[tuple[str, ...], ...]) -> str | None:
        if module in trail:
            return " -> ".join(".".join(part) for part in (*trail, module))
        if module in done:
            return None
        for target in sorted(edges.get(module, ())):
            found = visit(target, (*trail, module))
            if found is not None:
                return found
        done.add(module)
        return None

    return next((found for module in sorted(edges) if (found := visit(module, ()))), None)


def test_onnxscript_is_for_the_exporter_of_torch_alone() -> None:
    assert users_of("onnxscript") == {}


def test_tensorrt_and_cuda_stay_in_their_folder() -> None:
    flavours = users_of("tensorrt", "tensorrt_rtx", "tensorrt_lean", "tensorrt_dispatch", "cuda")
    assert [path for path in flavours if not path.startswith("engines/tensorrt/")] == []


def test_torch_and_transformers_stay_in_the_compiler() -> None:
    users = users_of("torch", "transformers", "safetensors", "huggingface_hub")
    allowed = [path for path in users if path.startswith("compiler/")]
    assert [path for path in users if path not in (*allowed, "calibration/text/data.py")] == []


def test_engines_and_specs_load_without_the_compiler_packages() -> None:
    """onnx and onnx_ir may be imported there to build, inside functions or for types alone."""
    offences = []
    for path in [*(ROOT / "engines").rglob("*.py"), ROOT / "graph/tensors.py", ROOT / "errors.py"]:
        tree = ast.parse(path.read_text("utf-8"))
        top = {node.lineno for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        for module, line in imports(path, runtime_only=True):
            if line in top and module[0] in ("onnx", "onnx_ir", "onnxscript", "torch"):
                offences.append(where(path, line))
    assert offences == []


def test_nothing_is_unpickled() -> None:
    assert users_of("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal") == {}
    for path in sources():
        text = path.read_text("utf-8")
        assert "allow_pickle=True" not in text, path
        assert "weights_only=False" not in text, path
        assert "trust_remote_code=True" not in text, path


def test_imports_inside_the_package_are_relative() -> None:
    offences = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            absolute = isinstance(node, ast.ImportFrom) and not node.level and node.module
            if absolute and node.module.split(".")[0] == "fuselage":  # type: ignore[attr-defined]
                offences.append(where(path, node.lineno))  # type: ignore[attr-defined]
    assert offences == []


def test_no_file_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in sources()
    }
    assert {path: length for path, length in lengths.items() if length > LARGEST_FILE} == {}


@pytest.mark.parametrize(
    "name", ["utils", "util", "helpers", "helper", "manager", "common", "misc"]
)
def test_no_file_is_called_after_nothing(name: str) -> None:
    assert [path for path in sources() if path.stem == name] == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert silent == []


# --- the wheel


def pyproject() -> dict[str, dict[str, dict[str, object]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_wheel_holds_exactly_the_folders_of_the_package() -> None:
    folders = {"fuselage"}
    for path in sources():
        folders.add(".".join(("fuselage", *path.relative_to(ROOT).parts[:-1])))
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert isinstance(listed, list)
    assert set(listed) == folders
    assert len(listed) == len(folders)


def test_every_folder_of_the_package_is_a_package() -> None:
    for path in sources():
        assert (path.parent / "__init__.py").is_file(), path


def test_no_folder_of_code_is_forgotten() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders - set(LAYERS) - set(OUTSIDE) == set()


# --- what an import costs

HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "tensorrt", "tensorrt_rtx")


@pytest.mark.parametrize(
    "module",
    [
        "fuselage",
        "fuselage.errors",
        "fuselage.graph.tensors",
        "fuselage.engines.base",
        "fuselage.engines.bundle",
        "fuselage.engines.targets",
        "fuselage.engines.text.pipeline",
    ],
)
def test_light_imports_stay_light(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        f"print(*sorted(set({HEAVY!r}) & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""
