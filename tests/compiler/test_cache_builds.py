"""Builds with a cache: which stages run again, and what that does to the bytes of the bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fuselage.calibration.text.data import CalibrationSet
from fuselage.compiler.cache.code import ALL, ENGINE, EXPORT, REFERENCE
from fuselage.compiler.cache.store import Store
from fuselage.compiler.pipeline import Outcome, run_build
from fuselage.compiler.recipe import Request

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("report.json", "manifest.json")
STAGES = ["export", "reference", "canonicalise", "quantise", "lower", "engine", "prove"]


_MODEL = {"model", "weights", "task"}
_OWN = {"versions", "code"}
READ = {
    "export": {*_MODEL, *_OWN},
    "reference": {*_MODEL, *_OWN, "profile"},
    "canonicalise": {*_OWN, "graph", "verify"},
    "quantise": {
        *_OWN, "graph", "precision", "int8_embeddings", "float_attention", "texts", "evaluation",
        "corpus", "examples", "budget", "text", "cpu",
    },
    "lower": {
        *_OWN, "target", "graph", "unquantised", "precision", "compute_capabilities", "vnni",
        "costs", "verify", "layout",
    },
    "engine": {*_OWN, "target", "graph", "weights", "config", "machine"},
    "prove": {
        *_OWN, "target", "engine", "graph", "precision", "profile", "reference", "blocker",
        "machine", "threads",
    },
}  # fmt: skip
"""What each stage reads; a key that misses one of them would give the product of another."""


def read_only_key(root: Path, stage: str) -> dict[str, Any]:
    (entry,) = Store(root, 1).entries(stage)
    return dict(entry.key.fields)


def texts(start: int) -> CalibrationSet:
    return CalibrationSet.from_texts(
        [f"text number {start + n} of {n * n} words" for n in range(40)]
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often what costs time was called; the cache is this test's own."""
    from fuselage.compiler.exporting import export
    from fuselage.compiler.quantization import quantize
    from fuselage.compiler.stages import engine

    monkeypatch.setenv("FUSELAGE_CACHE", str(tmp_path / "cache"))
    count: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            count[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (export, "export"), (export, "load_reference"), (quantize, "quantize"),
    ):  # fmt: skip
        counted(owner, name)
    original = engine.backend

    def backend(target: str) -> Any:
        found = original(target)
        counted(found, "build")
        return found

    monkeypatch.setattr(engine, "backend", backend)
    return count


@pytest.fixture
def request_(checkpoint: Callable[..., Path], tmp_path: Path) -> Request:
    return Request(
        model=str(checkpoint()), out=tmp_path / "first", precision="int8", targets=("ort-cpu",),
        texts=texts(0), threads=1, shapes=("batch=1:2:4,sequence=1:8:32",),
    )  # fmt: skip


def uses(outcome: Outcome) -> dict[str, str]:
    return {
        use["stage"]: "reused" if use["reused"] else "; ".join(use["changed"]) or "new"
        for use in outcome.report["cache"]
    }


def files(outcome: Outcome) -> dict[str, str]:
    listed = outcome.bundle.manifest.files
    return {name: file.sha256 for name, file in listed.items() if name not in TIMED}


def test_each_change_redoes_what_depends_on_it_alone(
    request_: Request, calls: Counter[str], tmp_path: Path
) -> None:
    first = run_build(request_)
    assert calls == {"export": 1, "quantize": 1, "build": 1}
    assert uses(first) == dict.fromkeys(STAGES, "new")
    kept = {stage: read_only_key(tmp_path / "cache", stage) for stage in STAGES}
    assert {stage: set(fields) for stage, fields in kept.items()} == READ
    assert kept["quantise"]["texts"] == texts(0).digest
    assert kept["prove"]["profile"] == {"batch": [1, 2, 4], "sequence": [1, 8, 32]}
    assert kept["engine"]["config"]["threads"] == 1

    assert run_build(request_).reused
    assert calls.total() == 3

    second = run_build(replace(request_, out=tmp_path / "second"))
    assert not second.reused
    assert calls.total() == 3
    assert uses(second) == dict.fromkeys(STAGES, "reused")
    assert files(second) == files(first)
    assert second.report["notes"] == first.report["notes"]
    assert second.report["stages"] == first.report["stages"]
    assert second.bundle.manifest.verification == first.bundle.manifest.verification

    text = run_build(replace(request_, out=tmp_path / "text", texts=texts(1)))
    assert calls == {"export": 1, "quantize": 2, "build": 2}
    found = uses(text)
    assert [stage for stage in STAGES if found[stage] == "reused"] == STAGES[:3]
    assert found["quantise"].startswith("texts: '")
    assert found["engine"].startswith("graph: '")
    assert files(text)["calibration.json"] != files(first)["calibration.json"]

    shapes = run_build(
        replace(request_, out=tmp_path / "shapes", shapes=("batch=1:2:4,sequence=1:8:16",))
    )
    assert calls == {"export": 1, "load_reference": 1, "quantize": 2, "build": 3}
    assert [stage for stage, use in uses(shapes).items() if use != "reused"] == [
        "reference", "engine", "prove"
    ]  # fmt: skip

    forced = run_build(replace(request_, out=tmp_path / "forced"), force=True)
    assert calls == {"export": 2, "load_reference": 1, "quantize": 3, "build": 4}
    assert files(forced) == {
        **files(first),
        "ort-cpu/engine.json": files(forced)["ort-cpu/engine.json"],
    }

    run_build(replace(request_, out=tmp_path / "none"), use_cache=False)
    assert calls == {"export": 3, "load_reference": 1, "quantize": 4, "build": 5}


def test_a_product_that_is_damaged_is_made_again(
    request_: Request, calls: Counter[str], tmp_path: Path
) -> None:
    first = run_build(request_)
    for path in (tmp_path / "cache" / "stages").rglob("model.*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    again = run_build(replace(request_, out=tmp_path / "again"))
    assert calls["build"] == 2
    assert uses(again)["engine"] == "its entry in the cache was damaged, or removed meanwhile"
    assert {n: d for n, d in files(again).items() if n != "ort-cpu/engine.json"} == {
        n: d for n, d in files(first).items() if n != "ort-cpu/engine.json"
    }
    assert any("it is removed, the stage runs again" in note for note in again.report["notes"])
    last = run_build(replace(request_, out=tmp_path / "last"))
    assert uses(last) == dict.fromkeys(STAGES, "reused")
    assert files(last) == files(again)


def test_a_cache_that_cannot_be_written_is_a_note(
    request_: Request, calls: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUSELAGE_CACHE", str(tmp_path / "file" / "cache"))
    outcome = run_build(replace(request_, precision="fp32", texts=None))
    assert [note for note in outcome.report["notes"] if "products cannot be kept" in note] != []
    assert calls == {"export": 1, "build": 1}


@pytest.mark.usefixtures("calls")
def test_a_build_from_the_cache_needs_no_compiler_packages(
    request_: Request, tmp_path: Path
) -> None:
    run_build(replace(request_, texts=None, precision="fp32"))
    code = (
        "import sys; from pathlib import Path\n"
        "from fuselage.compiler.pipeline import run_build\n"
        "from fuselage.compiler.recipe import Request\n"
        "out = run_build(Request(model=sys.argv[1], out=Path(sys.argv[2]), precision='fp32',"
        " targets=('ort-cpu',), threads=1, shapes=('batch=1:2:4,sequence=1:8:32',)))\n"
        "assert all(use['reused'] for use in out.report['cache']), out.report['cache']\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript', 'tokenizers'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, request_.model, str(tmp_path / "second")],
        env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.usefixtures("calls")
def test_another_process_with_another_hash_seed_writes_the_same_bytes(
    request_: Request, tmp_path: Path
) -> None:
    first = run_build(request_, use_cache=False)
    text = tmp_path / "texts.jsonl"
    rows = (json.dumps({"text": sample}) for sample in request_.texts.texts)  # type: ignore[union-attr]
    text.write_text("\n".join(rows) + "\n")
    command = [
        sys.executable, "-m", "fuselage", "build", request_.model, "--precision", "int8",
        "--target", "ort-cpu", "--threads", "1", "--shapes", request_.shapes[0],
        "--text", str(text), "--no-cache", "--quiet", "--out", str(tmp_path / "other" / "b"),
    ]  # fmt: skip
    moved = shutil.copytree(request_.model, tmp_path / "moved" / Path(request_.model).name)
    command[4] = str(moved)
    env = {**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=env, capture_output=True, check=True, cwd=tmp_path)
    timed = {*TIMED, "ort-cpu/engine.json"}
    for name in set(files(first)) - timed:
        ours, theirs = request_.out / name, tmp_path / "other" / "b" / name
        if name == "calibration.json":
            ours_json, theirs_json = (json.loads(path.read_text()) for path in (ours, theirs))
            assert {**ours_json, "source": ""} == {**theirs_json, "source": ""}
            continue
        assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.parametrize(
    ("parts", "modules"),
    [
        (EXPORT, ["compiler/exporting/export.py"]),
        (REFERENCE, ["compiler/stages/reference.py", "compiler/checks/proof.py"]),
        (ENGINE, ["engines/targets.py", "engines/ort/backend.py", "engines/tensorrt/backend.py"]),
    ],
)
def test_the_digest_of_code_covers_all_that_a_stage_imports(
    parts: tuple[str, ...], modules: list[str]
) -> None:
    """Values and annotations that the bundle does not depend on are listed here."""
    harmless = {
        "compiler/stages", "compiler/cache", "compiler/precision.py", "compiler/packages.py",
        "compiler/progress.py", "compiler/recipe.py", "passes/presets.py",
    }  # fmt: skip
    left_out = harmless - set(parts)
    seen: set[str] = set()
    queue = list(modules)
    while queue:
        name = queue.pop()
        is_left_out = any(name == part or name.startswith(f"{part}/") for part in left_out)
        if name not in seen and (name in modules or not is_left_out):
            seen.add(name)
            queue += imported(ROOT / name)
    uncovered = {
        name for name in seen
        if not any(name == part or name.startswith(f"{part}/") for part in parts)
    }  # fmt: skip
    assert {name for name in uncovered if not name.endswith("__init__.py")} == set()
    assert all((ROOT / part).exists() for part in (*parts, *ALL))


def imported(path: Path) -> list[str]:
    """Files of ours that a file imports, those for the type checker apart."""
    import ast

    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing_only:
            continue
        base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        names = [base / f"{alias.name}.py" for alias in node.names]
        candidates = [base.with_suffix(".py"), *names, base / "__init__.py"]
        found += [str(p.relative_to(ROOT)) for p in candidates if p.is_file()]
    return found


def test_equal_texts_of_another_file_are_named_in_the_report(
    calls: Counter[str], request_: Request, tmp_path: Path
) -> None:
    run_build(request_)
    again = replace(texts(0), source="other.txt", duplicates=3)
    outcome = run_build(replace(request_, out=tmp_path / "second", texts=again))
    corpus = outcome.report["quantization"]["corpus"]
    assert (corpus["source"], corpus["duplicates"]) == ("other.txt", 3)
    assert calls["quantize"] == 2
    assert calls["build"] == 1
