"""A damaged bundle, also one that was forged, answers or is refused; nothing else ever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuselage.engines.bundle import Bundle
from fuselage.errors import BundleError

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "fuzz_loader.py"

linux = pytest.mark.skipif(sys.platform != "linux", reason="watches files by inotify")


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@linux
def test_two_hundred_damaged_bundles() -> None:
    """`make fuzz` takes two thousand."""
    done = fuzz("--count", 200, "--seed", 0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 bundles, 0 faults" in done.stdout
    # The damage gets past the manifest: every reader refuses some of it, and some is harmless.
    for outcome in ("answered", "by open", "by facts", "by ranges", "by graph", "by engine"):
        assert outcome in done.stdout, done.stdout


@linux
def test_the_judge_finds_what_is_wrong() -> None:
    """A crash, a foreign error and a file opened outside are faults."""
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
import ctypes, tempfile
from pathlib import Path
import fuzz_loader
root = Path(tempfile.mkdtemp())
fuzz_loader._in_child(lambda: fuzz_loader._write_sound(root / "sound"), root / "verdict")
def crash(folder, chance): ctypes.string_at(0)
def foreign(folder, chance): raise KeyError("x")
def curious(folder, chance): return (folder.parent / "outside" / "secret").read_text()
def loud(folder, chance): return print("EP Error") or "answered"
def slow(folder, chance):
    while True: pass
fuzz_loader._SECONDS = 3.0
for fuzz_loader._load in (crash, foreign, curious, loud, slow):
    print(" ".join(fuzz_loader._case(root, 0, 0).split()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    crash, foreign, curious, loud, slow = done.stdout.splitlines()
    assert crash.startswith("fault: dies of SIGSEGV after ")
    assert foreign.startswith("fault: Traceback")
    assert "KeyError: 'x' after " in foreign
    assert curious.startswith("fault: opened secret, read secret outside the bundle, secret after")
    assert loud.startswith("fault: prints EP Error after ")
    assert slow.startswith("fault: hangs after ")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def outside(path: Path) -> None:
    place = path.parents[2] / "elsewhere"
    place.write_text('{"target": "ort-cpu"}')
    path.symlink_to(place)


@pytest.mark.parametrize(
    ("put", "reason"),
    [(pipe, "found a pipe"), (Path.mkdir, "found a folder"), (device, "is a link out of the"),
     (outside, "is a link out of the bundle")],
)  # fmt: skip
def test_a_manifest_is_a_file_in_the_bundle(
    put: Callable[[Path], None], reason: str, folder: Path
) -> None:
    """Opening a pipe waits for a writer, and /dev/zero never ends."""
    (folder / "manifest.json").unlink()
    put(folder / "manifest.json")
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{reason}"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("put", "reason"),
    [(pipe, "found a pipe"), (device, "is a link out of the"), (outside, "is a link out of the")],
)
@pytest.mark.parametrize("name", ["model.onnx", "engine.json"])
def test_an_engine_on_trust_is_of_plain_files_too(
    put: Callable[[Path], None], reason: str, name: str, folder: Path
) -> None:
    (folder / "manifest.json").unlink()
    (folder / "ort-cpu" / name).unlink()
    put(folder / "ort-cpu" / name)
    with pytest.raises(BundleError, match=rf"ort-cpu/{name}: .*{reason}"):
        Bundle.open(folder, trust=True).engine().close()


@pytest.mark.parametrize("name", ["graph", "graph/more"])
def test_a_linked_folder_is_refused_on_trust(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").unlink()
    (tmp_path / "graph").mkdir()
    if name == "graph":
        (folder / "graph").rename(tmp_path / "graph")
    (folder / name).symlink_to(tmp_path / "graph")
    with pytest.raises(BundleError, match=f"{name}: is a link out of the bundle"):
        Bundle.open(folder, trust=True).path("graph/model.onnx")


def test_a_target_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "ort-cpu/engine.json").write_text('{"target": ["ort-cpu"]}')
    with pytest.raises(BundleError, match=r"engine\.json: not the facts of an engine"):
        Bundle.open(folder, trust=True)


@pytest.mark.parametrize("flags", [[1], ["avx2", ["x"]], 7])
def test_facts_of_an_engine_are_text(flags: object, folder: Path) -> None:
    path = folder / "ort-cpu/engine.json"
    facts = json.loads(path.read_text())
    facts["cpu"]["flags"] = flags
    path.write_text(json.dumps(facts))
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"expected the facts of an ONNX Runtime engine"):
        Bundle.open(folder, trust=True).mismatches("ort-cpu")


@pytest.mark.parametrize("name", ["ort-cpu/engine.json", "task.json"])
def test_json_nested_too_deep_is_refused(name: str, folder: Path) -> None:
    from fuselage.engines.text.task import TaskSpec

    (folder / "manifest.json").unlink()
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(BundleError, match=rf"{Path(name).name}: .*recursion"):
        TaskSpec.load(Bundle.open(folder, trust=True).path("task.json"))
